"""Two runs over the same abstracts: what the agents of the one are worth beside those of the other."""
