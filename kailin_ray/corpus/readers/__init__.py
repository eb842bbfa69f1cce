"""Read citations from files: PubMed XML and tables."""
