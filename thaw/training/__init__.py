"""Training: the activations at the cut, the head, the phases of unfreezing, and how a run resumes."""
