"""Fine-tune a pretrained image network phase by phase, and keep what helps."""
