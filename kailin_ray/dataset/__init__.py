"""Record files as data: listed, merged, counted, turned into a Hugging Face dataset folder."""
