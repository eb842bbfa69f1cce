"""An opened index: what is searched and how."""
