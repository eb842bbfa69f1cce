"""Where files come from: network, hub, disk."""
