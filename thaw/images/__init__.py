"""From files on disk to packed, split and augmented images."""
