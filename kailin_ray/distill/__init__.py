"""One run, from a checked configuration to records and a manifest; replay; status."""
