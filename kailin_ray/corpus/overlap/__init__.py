"""Texts that two sets share: n-grams, near-duplicates, benchmark texts."""
