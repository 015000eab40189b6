"""Tests of params."""
