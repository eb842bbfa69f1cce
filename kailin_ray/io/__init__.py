"""Files, folders, stores, locks, HTTP, the terminal."""
