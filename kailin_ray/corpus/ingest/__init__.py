"""The ingest job and its two passes."""
