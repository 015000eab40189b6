"""Augmentation of whole batches on the training's device, from what a policy drew."""
