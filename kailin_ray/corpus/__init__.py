"""Open, read, write and update a folder of documents."""
