"""Judging a model: scoring a split from the model's bundle, intervals, comparison."""
