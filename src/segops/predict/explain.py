"""Where a network looked: class activation maps for segmentation (Seg-Grad-CAM)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from segops.runtime.errors import SegopsError

LONGEST_SIDE = 1024
"""Larger images are shrunk to this for the explanation, in pixels."""


class Explainable(Protocol):
    """What an explanation takes: a predictor, or the predictor of a bundle."""

    @property
    def network(self) -> nn.Module:
        """Takes uint8 images (1, 3, H, W) of any size, returns logits (1, C, H, W)."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The C names in id order."""

    @property
    def device(self) -> torch.device:
        """Where the network lies."""


def explain(
    predictor: Explainable,
    image: NDArray[np.uint8],
    class_id: int,
    region: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32]:
    """Show which places of an image speak for a class in a region.

    Seg-Grad-CAM: the class's logits, summed over the region, are differentiated by the coarsest
    features of the encoder (where there is no encoder, by what the last convolution reads). The
    mean of a channel's derivative is its weight; the map is the positive part of the weighted sum
    of the channels. It has the features' resolution and is enlarged to the image.

    The whole image goes through the network once, whatever windows, mirroring or CRF the model
    predicts with. The network is left as it was: mode, gradients and `requires_grad`.

    Args:
        predictor: Whose network is explained, on its device.
        image: uint8 (H, W, 3), RGB. One larger than :data:`LONGEST_SIDE` is shrunk.
        class_id: The class.
        region: bool (H, W), the pixels whose logits are explained; None: those where the network
            sees the class, or all if there are none.

    Returns:
        float32 (H, W) in 0..1, the strongest place 1; all 0 if nothing speaks for the class.

    Raises:
        SegopsError: There is no such class; the network's output is not finite; the bundle is too
            old to hand out its network.
        ValueError: `image` or `region` is no such array, or `region` is empty.

    Source:
        Vinogradova, Dibrov, Myers: Towards Interpretable Semantic Segmentation via
        Gradient-Weighted Class Activation Mapping, AAAI 2020; Selvaraju et al.: Grad-CAM, ICCV
        2017. The gradients and their sum are captum's `LayerGradCam`.
    """
    from captum.attr import LayerGradCam  # takes a second

    _check(predictor, image, class_id, region)
    network, device = predictor.network, predictor.device
    height, width = image.shape[:2]
    image, region = _shrink(image, region)
    pixels = torch.from_numpy(np.array(image, order="C")).permute(2, 0, 1)[None].to(device)
    where = None if region is None else torch.from_numpy(region).to(device)

    def score(images: Tensor) -> Tensor:
        logits: Tensor = network(images)[0]
        chosen = logits.argmax(0) == class_id if where is None else where
        if not bool(chosen.any()):
            chosen = torch.ones_like(chosen)
        return (logits[class_id] * chosen).sum()[None]

    tap = nn.Identity()
    with _resting(network, device), _tapped(network, tap) as padded:
        found = LayerGradCam(score, tap).attribute(pixels, relu_attributions=True)
        # The features are of the image with the padding below and on the right.
        found = functional.interpolate(found.detach(), size=padded[0], mode="bilinear")
        found = found[..., : image.shape[0], : image.shape[1]]
        if found.shape[-2:] != (height, width):
            found = functional.interpolate(found, size=(height, width), mode="bilinear")
    return _normalised(found[0, 0])


def _check(
    predictor: Explainable,
    image: NDArray[np.uint8],
    class_id: int,
    region: NDArray[np.bool_] | None,
) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(
            f"image is {image.dtype} of shape {image.shape}; expected uint8 of (H, W, 3)"
        )
    if region is not None and (region.dtype != np.bool_ or region.shape != image.shape[:2]):
        raise ValueError(
            f"region is {region.dtype} of shape {region.shape}; expected bool of {image.shape[:2]}"
        )
    if region is not None and not region.any():
        raise ValueError("region: no pixel is chosen")
    names = predictor.class_names
    if not 0 <= class_id < len(names):
        raise SegopsError(
            f"The model has no class {class_id} to explain; expected one of "
            f"{', '.join(f'{index} {name}' for index, name in enumerate(names))}."
        )


def _shrink(
    image: NDArray[np.uint8], region: NDArray[np.bool_] | None
) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
    """Image and region with the longer side at most :data:`LONGEST_SIDE`."""
    height, width = image.shape[:2]
    scale = LONGEST_SIDE / max(height, width)
    if scale >= 1:
        return image, region
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small: Any = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    if region is None:
        return small, None
    share = cv2.resize(region.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    # The most covered pixels, so that a region finer than a pixel does not vanish.
    return small, np.asarray(share >= min(0.5, float(share.max())))


def _normalised(found: Tensor) -> NDArray[np.float32]:
    if not bool(found.isfinite().all()):
        raise SegopsError(
            "The network's output is not finite: its weights are broken. Train it anew."
        )
    top = found.max()
    if top > 0:
        found = found / top
    activation: NDArray[np.float32] = found.cpu().numpy()
    return activation


@contextmanager
def _tapped(network: nn.Module, tap: nn.Module) -> Iterator[list[tuple[int, int]]]:
    """Lead the deepest features through `tap` for a while.

    Yields:
        A list that gets height and width of the padded image at each call of the network.
    """
    # A bundle brings its own class of network, so that its attributes alone tell what it is.
    inner = getattr(network, "network", network)
    encoder = getattr(inner, "encoder", None)
    sizes: list[tuple[int, int]] = []

    def note_size(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        sizes.append((inputs[0].shape[-2], inputs[0].shape[-1]))

    def tap_output(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        return _with_last(output, tap)

    def tap_input(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (tap(inputs[0]), *inputs[1:])

    with ExitStack() as hooks:
        hooks.callback(inner.register_forward_pre_hook(note_size).remove)
        if isinstance(encoder, nn.Module):
            hooks.callback(encoder.register_forward_hook(tap_output).remove)
        else:
            *_, last = (one for one in inner.modules() if isinstance(one, nn.Conv2d))
            hooks.callback(last.register_forward_pre_hook(tap_input).remove)
        yield sizes


def _with_last(features: Any, tap: nn.Module) -> Any:
    """What an encoder returns, with its last feature map led through `tap`."""
    if isinstance(features, Tensor):
        return tap(features)
    maps: Sequence[Any] = features
    if isinstance(maps[0], Tensor):
        return [*maps[:-1], tap(maps[-1])]
    return (_with_last(maps[0], tap), *maps[1:])  # DPT's: feature maps, then tokens


@contextmanager
def _resting(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode, no parameter with a gradient, true float32, for a while."""
    training = [module for module in network.modules() if module.training]
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for module in training:
        module.training = False
    for parameter in learning:
        parameter.requires_grad = False
    try:
        with (
            torch.inference_mode(False),
            torch.autocast(device.type, enabled=False),
            torch.backends.cudnn.flags(
                enabled=True, benchmark=False, deterministic=True, allow_tf32=False
            ),
        ):
            yield
    finally:
        for module in training:
            module.training = True
        for parameter in learning:
            parameter.requires_grad = True
