"""The label audit: which images and segments are likely labelled wrongly."""
