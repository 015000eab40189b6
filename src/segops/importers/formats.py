"""The formats that can be imported."""

from __future__ import annotations

FORMATS = {
    "folder": "two directories (or patterns of files) of photographs and masks",
    "coco": "COCO's instances_*.json: polygons and run lengths",
    "coco-panoptic": "COCO's panoptic_*.json with the directory of its PNGs",
    "cityscapes": "gtFine/SPLIT/CITY/*_labelIds.png and leftImg8bit",
    "labelme": "labelme's JSON files beside the photographs",
    "cvat": "CVAT for images 1.1 (annotations.xml), or its export of segmentation masks",
    "label-studio": "an export of Label Studio as JSON: brushes, polygons, rectangles, ellipses",
    "supervisely": "a project of Supervisely: meta.json, DATASET/img and DATASET/ann",
}
"""Format -> what it is. The module of that name in this room has a function `read`."""
