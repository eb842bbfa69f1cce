"""A run, from a checked configuration to records and a manifest; also replay and status."""
