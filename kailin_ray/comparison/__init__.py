"""Compare the agents of two runs over the same abstracts."""
