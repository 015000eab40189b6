"""Measures a learning rate and a batch size, and searches declared parameter ranges."""
