"""Files to citations: PubMed XML and tables."""
