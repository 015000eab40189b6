"""segops.stages."""
