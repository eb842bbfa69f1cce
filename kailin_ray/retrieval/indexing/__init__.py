"""The job that makes and updates an index."""
