"""Prediction with a bundle, and the bundle itself."""
