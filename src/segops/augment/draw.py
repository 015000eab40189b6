"""What a policy draws for a sample, without doing it: for an executor on another device."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segops.augment.policy import Policy

Drawn = dict[str, Any]
"""Parameters of one transform by name, as its ``get_params_dependent_on_data`` gives them."""


def draw(
    policy: Policy, image: NDArray[np.uint8], mask: NDArray[np.uint8], seed: int
) -> tuple[Drawn | None, ...]:
    """Draw the parameters of all transforms, in the order and from the generators that a call uses.

    The transforms' own code draws. Those behind the first (the ``Warp``) see one grey pixel in the
    place of the crop, which nobody has made yet: what they derive from pixels (the mean grey in
    `matrix`, the `levels` of noise) is not the sample's, what they draw is.

    Args:
        policy: The augmentation.
        image: uint8 (H, W, 3), RGB.
        mask: uint8 (H, W).
        seed: As for a call of `policy`.

    Returns:
        For every transform of the policy its parameters, or None where it does not act.
    """
    compose = policy.compose
    compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
    # The policy as a whole draws whether it acts, as every transform does; it always does.
    compose.py_random.random()
    data = {"image": image, "mask": mask}
    drawn: list[Drawn | None] = []
    for transform in compose.transforms:
        params = None
        if transform.should_apply():
            params = transform.update_transform_params(params=transform.get_params(), data=data)
            params.update(transform.get_params_dependent_on_data(params=params, data=data))
        drawn.append(params)
        data = {"image": np.zeros((1, 1, 3), np.uint8), "mask": np.zeros((1, 1), np.uint8)}
    return tuple(drawn)
