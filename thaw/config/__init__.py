"""params.yaml: what it may hold, how it is read, and what contradicts or does nothing."""
