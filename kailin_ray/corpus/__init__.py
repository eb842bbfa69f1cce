"""A folder of documents: opened, read, written, updated."""
