"""Tests of tune."""
