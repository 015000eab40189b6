"""Data sets of other formats, read and written in VOC layout."""
