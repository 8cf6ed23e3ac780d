"""The frozen prefix: the engines that run it, and the cache of what it gives."""
