"""Find texts that occur twice: n-grams, near-duplicates, benchmark texts."""
