"""A model that others can run: the exported classifier, its answers and its card."""
