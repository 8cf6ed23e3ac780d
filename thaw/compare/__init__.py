"""Champion and challenger: two revisions of the model on the same test images. Nothing here imports torch."""
