"""Where a network and its weights come from; one file for each kind of source."""
