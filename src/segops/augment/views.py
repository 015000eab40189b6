"""A weak and a strong view of an image without a mask, of the same geometry."""

from __future__ import annotations

from typing import Any

import albumentations as A
import numpy as np

from segops.augment.color import ColorJitter, GaussianBlur
from segops.augment.geometry import Pixels
from segops.augment.policy import Policy, sample_seed, seeded


class Views:
    """Crops of an image; the result depends on the image and a seed alone.

    The weak view has the geometry of the policy that augments train: scale, crop, flip and the
    rest. The strong view has the same pixels with changed colours and blur, whatever the policy
    does to colours; their strengths are those of FixMatch-like trainings of segmentation.

    Source:
        Yang et al., "Revisiting Weak-to-Strong Consistency in Semi-Supervised Semantic
        Segmentation" (UniMatch), CVPR 2023, https://arxiv.org/abs/2208.09910

    Args:
        policy: The augmentation of train.
        strong: Whether the strong view is made.

    Attributes:
        crop: Height and width of a view, in pixels.
    """

    def __init__(self, policy: Policy, strong: bool) -> None:
        self.policy, self.strong = policy, strong
        self.crop = policy.crop
        self._geometry = policy.geometry()
        self._colours = A.Compose(
            [
                ColorJitter(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.25, p=0.8),
                GaussianBlur(sigma=(0.1, 2.0), p=0.5),
            ]
        )

    def __call__(self, image: Pixels, seed: int) -> tuple[Pixels, Pixels]:
        """Make the views of an image, uint8 (H, W, C).

        Returns:
            The weak view, and behind it in the same array the strong one, uint8 (h, w, C or 2 C);
            and which pixels are padding: uint8 (h, w), 255 there and 0 elsewhere.
        """
        weak, padding = self._geometry(image, np.zeros(image.shape[:2], np.uint8), seed)
        if not self.strong:
            return weak, padding
        # A seed of its own: what happens to colours does not go together with flip and scale.
        seeded(self._colours, sample_seed(seed, 0, 0))
        changed = self._colours(image=weak, mask=padding)["image"]
        return np.concatenate([weak, changed], axis=2), padding

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the policy, for workers that are not forked."""
        return Views, (self.policy, self.strong)
