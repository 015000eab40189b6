"""The augmentation policy: built from ``params.yaml``, written as JSON, applied by training."""

from __future__ import annotations

import copy
import hashlib
import random
from typing import TYPE_CHECKING, Any

import albumentations as A
import numpy as np

from segops.augment.color import ColorJitter, GaussianBlur, GaussianNoise
from segops.augment.extra import build_extra
from segops.augment.geometry import Pixels, Warp
from segops.augment.photometric import PhotometricDistortion
from segops.runtime.bands import IMAGENET_MEAN_COLOR
from segops.runtime.errors import SegopsError

if TYPE_CHECKING:
    from segops.params.augment import AugmentParams

BACKGROUND = "background"
"""Key of a written policy: the id of the class that copy-paste takes for background."""

Drawn = dict[str, Any]
"""Parameters of one transform by name, as its ``get_params_dependent_on_data`` gives them."""


class Policy:
    """An Albumentations ``Compose`` whose result depends on its inputs and a seed alone.

    Its first transform is a :class:`Warp` that always acts. `crop` is the height and the width of
    every result, in pixels.
    """

    def __init__(self, compose: A.Compose) -> None:
        first = compose.transforms[0] if compose.transforms else None
        if not isinstance(first, Warp) or first.p != 1:
            raise ValueError(f"expected a Warp with p=1 as first transform, found {first!r}")
        self.compose = compose
        self.crop: tuple[int, int] = first.size

    def __call__(self, image: Pixels, mask: Pixels, seed: int) -> tuple[Pixels, Pixels]:
        """Augment an image, uint8 (H, W, C), and its mask, uint8 (H, W), 255 for void.

        Args:
            image: The image.
            mask: Its mask.
            seed: Not negative; :func:`sample_seed` makes it.

        Returns:
            The crop, uint8 (h, w, C), and its mask, uint8 (h, w).

        Raises:
            ValueError: Image and mask differ in size.
        """
        seeded(self.compose, seed)
        result = self.compose(image=image, mask=mask)
        return result["image"], result["mask"]

    def draw(self, image: Pixels, mask: Pixels, seed: int) -> tuple[Drawn | None, ...]:
        """Draw what a call with the same arguments draws, and apply nothing.

        Transforms after the warp get one black pixel in place of the crop, which does not exist
        yet: what they draw is the sample's, what they compute from pixels (the mean grey in
        `matrix`, the size of `levels`) is not.

        Returns:
            The parameters of each transform; None where it does not act.
        """
        seeded(self.compose, seed)
        # Albumentations draws whether the whole policy acts, though its probability is 1.
        self.compose.py_random.random()
        data = {"image": image, "mask": mask}
        drawn: list[Drawn | None] = []
        for transform in self.compose.transforms:
            params = None
            if transform.should_apply():
                params = transform.update_transform_params(params=transform.get_params(), data=data)
                params.update(transform.get_params_dependent_on_data(params=params, data=data))
            drawn.append(params)
            data = {
                "image": np.zeros((1, 1, image.shape[2]), np.uint8),
                "mask": np.zeros((1, 1), np.uint8),
            }
        return tuple(drawn)

    def plain(self) -> Policy:
        """The policy that cuts the same crops, at a drawn place, and changes nothing else."""
        first = self.compose.transforms[0]
        return Policy(A.Compose([Warp(self.crop, fill=first.fill, fill_mask=first.fill_mask)]))

    def geometry(self) -> Policy:
        """The policy that warps as this one, for images without masks, and changes no colours."""
        warp = copy.copy(self.compose.transforms[0])
        warp.cat_max_ratio = 1.0  # there are no classes to be balanced
        return Policy(A.Compose([warp]))

    def to_json(self) -> dict[str, Any]:
        """The policy in Albumentations' own serialised form, ready for JSON."""
        return dict(A.to_dict(self.compose))

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


def written(policy: Policy, params: AugmentParams, background: int | None) -> dict[str, Any]:
    """A policy as stage augment writes it: all that training takes of section `augment`.

    `background` is the id of that class; copy-paste never takes it for a rare object.
    """
    content = policy.to_json()
    return content | {BACKGROUND: background} if params.copy_paste.p else content


def build_policy(params: AugmentParams, fill: tuple[int, ...] = IMAGENET_MEAN_COLOR) -> Policy:
    """Build the policy; parts of probability 0 are left out.

    `fill` is the value of each channel, 0..255, beyond an image's border. Colours are those of the
    first three channels; geometry, blur and noise act on all.

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
        fill=fill,
    )
    parts = [
        ColorJitter(**params.color_jitter.model_dump()),
        PhotometricDistortion(**params.photometric.model_dump()),
        GaussianBlur(**params.blur.model_dump()),
        GaussianNoise(**params.noise.model_dump()),
        *build_extra(params.extra),
    ]
    return Policy(A.Compose([warp, *(part for part in parts if part.p > 0)]))


def seeded(compose: A.Compose, seed: int) -> None:
    """Let the next call of `compose` draw from `seed`."""
    # `set_random_seed` would give every transform the same seed, so that all draw the same
    # numbers and the less probable act only together with the more probable.
    compose.set_random_state(np.random.default_rng(seed), random.Random(seed))


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """The seed of sample `index` in `epoch`: 0 <= result < 2**63, the same on every machine.

    Neighbouring arguments give unrelated seeds.
    """
    digest = hashlib.blake2b(f"{seed} {epoch} {index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
