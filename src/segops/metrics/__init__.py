"""Confusion matrix and what follows from it: IoU and its kin."""
