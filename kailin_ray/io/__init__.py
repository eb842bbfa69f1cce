"""Files, folders, object stores, locks, HTTP and the terminal."""
