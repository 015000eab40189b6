"""Tests of augment."""
