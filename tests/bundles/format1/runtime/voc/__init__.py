"""The PASCAL VOC segmentation format: classes, palette, masks, images, layout."""
