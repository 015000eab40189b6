"""The augmentation policy of training: what it does to an image and its mask, and the proof."""
