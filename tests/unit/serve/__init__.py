"""Tests of the prediction server without a server."""
