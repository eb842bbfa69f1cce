"""The job that builds and updates an index."""
