"""The code that is copied into every registered model; it imports nothing else of segops."""
