"""Distil PubMed abstracts into question-context-answer training data on Ray and vLLM, guided by MeSH."""

__version__ = "0.1.0"
