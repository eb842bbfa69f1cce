"""Sources of files: network, hub, disk."""
