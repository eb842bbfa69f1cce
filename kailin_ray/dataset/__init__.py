"""Record files as data: list, merge and count them, and convert them to a Hugging Face dataset folder."""
