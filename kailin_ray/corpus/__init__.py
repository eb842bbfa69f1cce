"""PubMed to documents: one element of XML in, one row of ``schema.DOCUMENTS`` out."""
