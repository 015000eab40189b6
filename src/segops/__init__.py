"""segops: from PASCAL VOC files to a promoted segmentation model, again and again."""

__version__ = "0.1.0"
