"""From files on disk to packed and split images."""
