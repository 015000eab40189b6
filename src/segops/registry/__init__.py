"""segops.registry."""
