"""All that travels inside a registered model: it imports nothing else of segops."""
