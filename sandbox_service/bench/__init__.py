"""What sandboxes and gradings cost; see `__main__`."""
