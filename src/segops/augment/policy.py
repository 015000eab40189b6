"""The augmentation policy: built from ``params.yaml``, written as JSON, applied by training."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING, Any

import albumentations as A
import numpy as np
from numpy.typing import NDArray

from segops.augment.color import ColorJitter, GaussianBlur, GaussianNoise
from segops.augment.extra import build_extra
from segops.augment.geometry import Warp
from segops.augment.photometric import PhotometricDistortion
from segops.errors import SegopsError

if TYPE_CHECKING:
    from segops.params.augment import AugmentParams


class Policy:
    """An Albumentations ``Compose`` whose result depends on its inputs and a seed alone.

    Args:
        compose: Its first transform is a :class:`Warp` that always acts.

    Raises:
        ValueError: The first transform is not such a ``Warp``.
    """

    def __init__(self, compose: A.Compose) -> None:
        first = compose.transforms[0] if compose.transforms else None
        if not isinstance(first, Warp) or first.p != 1:
            raise ValueError(f"expected a Warp with p=1 as first transform, found {first!r}")
        self.compose = compose
        self.crop: tuple[int, int] = first.size
        """Height and width of every result, in pixels."""

    def __call__(
        self, image: NDArray[np.uint8], mask: NDArray[np.uint8], seed: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Augment one image and its mask.

        Args:
            image: uint8 (H, W, 3), RGB.
            mask: uint8 (H, W), class ids and 255 for void.
            seed: Not negative; :func:`sample_seed` makes one.

        Returns:
            The crop, uint8 (h, w, 3), and its mask, uint8 (h, w).

        Raises:
            ValueError: Image and mask differ in size.
        """
        # Not `set_random_seed`: it seeds every transform alike, so that all draw the same numbers
        # and whatever has the lower probability happens only together with the rest.
        self.compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
        result = self.compose(image=image, mask=mask)
        return result["image"], result["mask"]

    def to_json(self) -> dict[str, Any]:
        """The policy in Albumentations' own serialised form, ready for JSON."""
        serialised: dict[str, Any] = A.to_dict(self.compose)
        return serialised

    @classmethod
    def from_json(cls, content: Any) -> Policy:
        """The policy that :meth:`to_json` wrote.

        Raises:
            SegopsError: `content` is not such a policy, or another version of Albumentations
                wrote it.
        """
        try:
            version = content["__version__"]
            if version == A.__version__:
                return cls(A.from_dict(content))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SegopsError(
                f"not an augmentation policy: {error}. `dvc repro --force augment` makes it anew."
            ) from error
        raise SegopsError(
            f"augmentation policy of Albumentations {version}, but {A.__version__} is installed. "
            "`dvc repro --force augment` makes it anew."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the serialised form, for workers that are not forked."""
        return Policy.from_json, (self.to_json(),)


def build_policy(params: AugmentParams) -> Policy:
    """Build the policy; parts of probability 0 are left out.

    Raises:
        SegopsError: ``augment.extra`` names a transform that cannot be built.
    """
    warp = Warp(
        size=params.crop,
        scale=params.scale.range,
        scale_p=params.scale.p,
        flip_p=params.flip.p,
        rotate=params.rotate.limit,
        rotate_p=params.rotate.p,
        shift=params.shift.limit,
        shift_p=params.shift.p,
        shear=params.shear.limit,
        shear_p=params.shear.p,
        cat_max_ratio=params.cat_max_ratio,
    )
    jitter, distortion = params.color_jitter, params.photometric
    parts: list[Any] = [
        ColorJitter(
            brightness=jitter.brightness,
            contrast=jitter.contrast,
            saturation=jitter.saturation,
            hue=jitter.hue,
            p=jitter.p,
        ),
        PhotometricDistortion(
            brightness=distortion.brightness,
            contrast=distortion.contrast,
            saturation=distortion.saturation,
            hue=distortion.hue,
            p=distortion.p,
        ),
        GaussianBlur(sigma=params.blur.sigma, p=params.blur.p),
        GaussianNoise(std=params.noise.std, p=params.noise.p),
    ]
    parts += build_extra(params.extra)
    return Policy(A.Compose([warp, *(part for part in parts if part.p > 0)]))


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """The seed of sample `index` in `epoch`: 0 <= result < 2**63, the same on every machine.

    Neighbouring arguments give unrelated seeds.
    """
    digest = hashlib.blake2b(f"{seed} {epoch} {index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
