"""Drift: whether images still look like those that the champion was trained and judged on."""
