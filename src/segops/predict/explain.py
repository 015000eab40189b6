"""Where a network looked: class activation maps for segmentation (Seg-Grad-CAM)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from segops.runtime.bands import false_colour
from segops.runtime.errors import SegopsError
from segops.runtime.predictor import require_finite
from segops.runtime.torch_predictor import TorchPredictor, evaluating

from .bundle import TORCH, BundledPredictor, runtime_of
from .deepest import inner_of, pass_deepest

LONGEST_SIDE = 1024
"""Side, in pixels, to which a larger image is shrunk before the network runs over it whole."""

LARGEST_PICTURE = 4_000_000
"""Most pixels of the picture that ``segops predict --explain`` writes."""

AUTO = "auto"


Explainable = TorchPredictor | BundledPredictor


def require_class(name: str | None, model: Mapping[str, Any]) -> None:
    """Check ``--explain`` against the content of a bundle's ``model.json``.

    Raises:
        SegopsError: It names neither a class nor `auto`, or the model is an export, which has no
            gradients.
    """
    if name is not None and runtime_of(model) != TORCH:
        raise SegopsError(
            f"--explain: the model is an export for {runtime_of(model)}, which cannot be "
            "explained. Use the model that it was made of (--runtime torch)."
        )
    class_names = model.get("class_names", ())
    if name is not None and name != AUTO and name not in class_names:
        raise SegopsError(
            f"--explain {name}: the model has no such class. Expected {AUTO} or one of "
            f"{', '.join(class_names)}."
        )


def explanation(
    predictor: Explainable, image: NDArray[np.uint8], mask: NDArray[np.uint8], name: str
) -> tuple[NDArray[np.uint8], NDArray[np.float32]] | None:
    """Show which places of an image speak for a class in the pixels predicted as this class.

    Args:
        predictor: As in :func:`explain`, like the errors.
        image: uint8 (H, W, B); shrunk to at most `LARGEST_PICTURE` pixels.
        mask: uint8 (H, W), the prediction.
        name: A class, or `auto`: the mask's largest class that is not background. A class that the
            mask lacks is explained over the whole image.

    Returns:
        The image (h, w, 3), RGB or in false colour, and its heat map float32 (h, w) in 0..1;
        None where the mask holds background only and `auto` is asked for.
    """
    if name in predictor.class_names:
        class_id = predictor.class_names.index(name)
    else:
        counts = np.bincount(mask.ravel(), minlength=len(predictor.class_names))
        if predictor.classes.background is not None:
            counts[predictor.classes.background] = 0
        if not counts.any():
            return None
        class_id = int(counts.argmax())
    inside = mask == class_id
    region = inside if inside.any() else np.ones_like(inside)
    image, region = _shrink(image, region, (LARGEST_PICTURE / mask.size) ** 0.5)
    return false_colour(image), explain(predictor, image, class_id, region)


def explain(
    predictor: Explainable,
    image: NDArray[np.uint8],
    class_id: int,
    region: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32]:
    """Show which places of an image speak for a class in a region.

    Seg-Grad-CAM: the class's logits, summed over the region, are differentiated by the coarsest
    features of the encoder (without an encoder, by the input of the last convolution). The mean of
    a channel's derivative is its weight; the map is the positive part of the weighted sum
    of the channels. It has the features' resolution and is enlarged to the image.

    The whole image passes the network once, without the model's windows, mirroring and CRF. The
    network's mode, gradients and `requires_grad` are restored.

    Args:
        predictor: The predictor of the network, which runs on its device.
        image: uint8 (H, W, B).
        class_id: One of the model's classes.
        region: bool (H, W), the pixels whose logits are explained, at least one; None: the pixels
            where the network sees the class, or all pixels if it sees the class nowhere.

    Returns:
        float32 (H, W) in 0..1, the strongest place 1; all 0 if nothing speaks for the class.

    Raises:
        SegopsError: The network's output is not finite, or the bundle's code is too old to give
            access to its network.

    Source:
        Vinogradova, Dibrov, Myers: Towards Interpretable Semantic Segmentation via
        Gradient-Weighted Class Activation Mapping, AAAI 2020; Selvaraju et al.: Grad-CAM, ICCV
        2017. The gradients and their sum are captum's `LayerGradCam`.
    """
    from captum.attr import LayerGradCam  # takes a second

    network, device = predictor.network, predictor.device
    height, width = image.shape[:2]
    image, region = _shrink(image, region, LONGEST_SIDE / max(height, width))
    pixels = torch.from_numpy(np.array(image, order="C")).permute(2, 0, 1)[None].to(device)

    def score(images: Tensor) -> Tensor:
        logits: Tensor = network(images)[0]
        chosen = logits.argmax(0) == class_id if region is None else torch.from_numpy(region)
        if not bool(chosen.any()):
            chosen = torch.ones_like(chosen)
        return (logits[class_id] * chosen.to(device)).sum()[None]

    tap = nn.Identity()
    with _frozen(network, device), _tapped(network, tap) as padded:
        heat = LayerGradCam(score, tap).attribute(pixels, relu_attributions=True)
        # The features cover the image and the padding below it and on its right.
        heat = functional.interpolate(heat.detach(), size=padded[0], mode="bilinear")
        heat = heat[..., : image.shape[0], : image.shape[1]]
        if heat.shape[-2:] != (height, width):
            heat = functional.interpolate(heat, size=(height, width), mode="bilinear")
    require_finite(bool(heat.isfinite().all()))
    top = heat.max()
    activation: NDArray[np.float32] = (heat[0, 0] / top if top > 0 else heat[0, 0]).cpu().numpy()
    return activation


def _shrink(
    image: NDArray[np.uint8], region: NDArray[np.bool_] | None, scale: float
) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
    """Image and region with both sides times `scale`, where that is below 1."""
    if scale >= 1:
        return image, region
    height, width = image.shape[:2]
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small: Any = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    if region is None:
        return small, None
    share = cv2.resize(region.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    # The pixels that the region covers most, so that a region finer than a pixel does not vanish.
    return small, np.asarray(share >= min(0.5, float(share.max())))


@contextmanager
def _tapped(network: nn.Module, tap: nn.Module) -> Iterator[list[tuple[int, int]]]:
    """Pass the deepest features through `tap` inside the context.

    Yields:
        A list to which each call of the network appends height and width of the padded image.
    """
    sizes: list[tuple[int, int]] = []

    def note_size(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        sizes.append((inputs[0].shape[-2], inputs[0].shape[-1]))

    with ExitStack() as hooks:
        hooks.callback(inner_of(network).register_forward_pre_hook(note_size).remove)
        hooks.callback(pass_deepest(network, tap).remove)
        yield sizes


@contextmanager
def _frozen(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode and no gradients of parameters inside the context."""
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad = False
    try:
        with evaluating(network, device, gradients=True):
            yield
    finally:
        for parameter in learning:
            parameter.requires_grad = True
