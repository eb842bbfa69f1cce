"""An opened index: its structure, its passages and its rankings."""
