"""Faults that are made for real; ``docs/explanation/faults.md`` lists them."""
