"""The dense CRF against its definition: sums over all pairs of pixels, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from segops.runtime.crf import _Appearance, _Smoothness, refine
from segops.runtime.errors import SegopsError
from segops.runtime.permutohedral import Permutohedral
from segops.runtime.predict_settings import CrfSettings

pytestmark = pytest.mark.usefixtures("one_thread")

HEIGHT, WIDTH = 16, 20


def crf_of(
    smooth: float, sigma: float, appearance: float, wide: float, color: float, iterations: int
) -> CrfSettings:
    return CrfSettings(
        gaussian_weight=smooth,
        gaussian_sigma=sigma,
        bilateral_weight=appearance,
        bilateral_sigma=wide,
        color_sigma=color,
        iterations=iterations,
    )


USUAL = crf_of(3, 3, 10, 80, 13, 5)
SMALL = crf_of(1, 2, 3, 8, 20, 5)
"""Kernels that fit an image of a few pixels: neighbours count, but do not decide everything."""

SIGMAS = pytest.mark.parametrize(("sigma", "color"), [(80, 13), (8, 13), (8, 20), (4, 20)])


REFERENCE = (
    (0.23101, 0.17343, 0.52491, 0.12017, 0.4193, 0.03437, 0.1252, 0.01134),
    (0.38664, 0.0655, 0.23173, 0.02642, 0.17218, 0.81198, 0.25134, 0.3753),
    (0.19981, 0.60876, 0.10487, 0.39343, 0.06858, 0.77978, 0.01477, 0.15527),
    (0.08222, 0.29566, 0.02946, 0.1824, 0.18575, 0.07696, 0.51673, 0.05743),
    (0.19814, 0.13304, 0.5152, 0.08605, 0.96591, 0.02186, 0.11274, 0.09088),
    (0.44859, 0.03834, 0.28951, 0.9135, 0.05881, 0.06734, 0.05104, 0.63234),
)
"""What pydensecrf 1.0rc3, the wrapper of the authors' code, says of the first class."""


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def colour_edges(noise: float = 2.0) -> Tensor:
    """Three areas of three colours with a little noise, uint8 (HEIGHT, WIDTH, 3)."""
    image = torch.tensor([90.0, 90, 90]).repeat(HEIGHT, WIDTH, 1)
    image[:, 10:] = torch.tensor([200.0, 60, 30])
    image[8:, :6] = torch.tensor([20.0, 160, 220])
    image += noise * torch.randn(image.shape, generator=generator())
    return image.round().clamp(0, 255).byte()


def areas() -> Tensor:
    """The class ids of the areas of :func:`colour_edges`, int64 (HEIGHT, WIDTH)."""
    ids = torch.zeros(HEIGHT, WIDTH, dtype=torch.int64)
    ids[:, 10:] = 1
    ids[8:, :6] = 2
    return ids


def noisy(ids: Tensor, classes: int, certainty: float = 1.5, seed: int = 1) -> Tensor:
    """Probabilities (C, H, W) that favour `ids` among noise."""
    logits = torch.randn(classes, *ids.shape, generator=generator(seed))
    logits += certainty * torch.nn.functional.one_hot(ids, classes).permute(2, 0, 1)
    return logits.softmax(0)


def exact_kernel(features: Tensor) -> Tensor:
    """The symmetrically normalised Gaussian of all pairs, float64 (N, N)."""
    features = features.double()
    kernel = torch.exp(-0.5 * torch.cdist(features, features).square())
    norm = kernel.sum(1).rsqrt()
    return norm[:, None] * kernel * norm


def features_of(image: Tensor, sigma: float, color: float | None) -> Tensor:
    """Position, and colour if asked for, in standard deviations, float64 (N, d)."""
    height, width = image.shape[:2]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    found = torch.stack([columns, rows], 2).double().view(-1, 2) / sigma
    return found if color is None else torch.cat([found, image.double().view(-1, 3) / color], 1)


def exact_refinement(crf: CrfSettings, probabilities: Tensor, image: Tensor) -> Tensor:
    """The mean field by the definition, float64 (C, H, W)."""
    smoothness = exact_kernel(features_of(image, crf.gaussian_sigma, None))
    appearance = exact_kernel(features_of(image, crf.bilateral_sigma, crf.color_sigma))
    pair = crf.gaussian_weight * smoothness + crf.bilateral_weight * appearance
    unary = -probabilities.double().flatten(1).T.log()
    marginals = (-unary).softmax(1)
    for _ in range(crf.iterations):
        # Potts: a label costs what the other labels' marginals weigh.
        others = marginals.sum(1, keepdim=True) - marginals
        marginals = (-unary - pair @ others).softmax(1)
    return marginals.T.view(probabilities.shape)


def pixels_first(probabilities: Tensor) -> Tensor:
    return probabilities.permute(1, 2, 0).contiguous()


def iou(found: Tensor, truth: Tensor) -> float:
    """Mean over the classes of intersection over union."""
    ious = []
    for one in range(int(truth.max()) + 1):
        both, either = (found == one) & (truth == one), (found == one) | (truth == one)
        ious.append(float(both.sum() / either.sum()))
    return sum(ious) / len(ious)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 3.0, 40.0])
@pytest.mark.parametrize("shape", [(16, 20), (150, 3), (1, 1)])
def test_the_smoothness_kernel_is_exact(shape: tuple[int, int], sigma: float) -> None:
    """Longer than a block and shorter, narrow and wide: to float32's rounding."""
    image = torch.zeros(*shape, 3, dtype=torch.uint8)
    values = torch.rand(*shape, 4, generator=generator())
    found = _Smoothness(image, sigma).filter(values)
    expected = exact_kernel(features_of(image, sigma, None)) @ values.double().view(-1, 4)
    assert torch.allclose(found.double().reshape(-1, 4), expected, rtol=0, atol=1e-6)


@SIGMAS
def test_the_appearance_kernel_is_near_the_exact_one(sigma: float, color: float) -> None:
    """Within 5 % in the mean square, 16 % at the worst pixel.

    That is the lattice's own error: linear interpolation and a three-point blur in the place of a
    Gaussian, and vertices that do not exist (Adams et al. 2010 report the same size).
    """
    image = colour_edges()
    values = pixels_first(noisy(areas(), 3))
    found = _Appearance(image, sigma, color).filter(values).double().view(-1, 3)
    expected = exact_kernel(features_of(image, sigma, color)) @ values.double().view(-1, 3)
    assert (found - expected).norm() < 0.05 * expected.norm()
    assert ((found - expected).abs() < 0.16 * expected).all()


@pytest.mark.parametrize("dimensions", [1, 2, 3, 5])
def test_the_lattice_filters_a_dense_cloud(dimensions: int) -> None:
    """Up to one factor it is the Gaussian, 4 % in the mean square, in any number of dimensions."""
    points = 3 * torch.rand(1500, dimensions, generator=generator())
    values = torch.rand(1500, 2, generator=generator(1))
    found = Permutohedral(points).filter(values).double()
    distance = torch.cdist(points.double(), points.double())
    expected = torch.exp(-0.5 * distance.square()) @ values.double()
    expected *= found.sum() / expected.sum()
    assert (found - expected).norm() < 0.04 * expected.norm()


def test_the_lattice_is_linear_and_spreads_all_of_a_dense_value() -> None:
    points = torch.rand(500, 5, generator=generator()) * 2
    lattice = Permutohedral(points)
    values = torch.rand(500, 3, generator=generator(1))
    assert torch.allclose(lattice.filter(2 * values), 2 * lattice.filter(values), rtol=1e-5)
    assert lattice.filter(values).shape == (500, 3)
    assert (lattice.filter(torch.ones(500, 1)) > 0).all()
    with pytest.raises(ValueError, match="500"):
        lattice.filter(values[:9])


def test_points_that_span_too_much_are_refused() -> None:
    points = torch.rand(10, 5, generator=generator()) * 1e6
    with pytest.raises(SegopsError, match="bilateral_sigma"):
        Permutohedral(points)


@pytest.mark.parametrize("crf", [USUAL, SMALL], ids=["usual", "small"])
def test_the_mean_field_is_near_the_exact_one(crf: CrfSettings) -> None:
    """The same labels, probabilities within 0.01 on average, and 0.15 where classes compete."""
    image, probabilities = colour_edges(), noisy(areas(), 3)
    found = refine(probabilities, image, crf).double()
    expected = exact_refinement(crf, probabilities, image)
    assert torch.equal(found.argmax(0), expected.argmax(0))
    assert (found - expected).abs().mean() < 0.01
    assert (found - expected).abs().max() < 0.15
    assert (found - probabilities).abs().mean() > 0.1  # it does something


def test_the_authors_code_says_the_same() -> None:
    """The lattice itself, not only its limit: rounding apart, every probability is theirs."""
    y, x = np.mgrid[:6, :8]
    red, green = 60 + 9 * x + 120 * (x + y > 7), 200 - 7 * y - 60 * (x > 4)
    image = np.stack([red, green, 40 + 5 * x * y % 90], 2).astype(np.uint8)
    liking = np.stack([(3 * x + 5 * y) % 7, (5 * x + 2 * y) % 9, x * y % 5]) + 1.0
    probabilities = torch.from_numpy(liking / liking.sum(0)).float()
    crf = crf_of(0, 3, 4, 6, 25, 3)
    found = refine(probabilities, torch.from_numpy(image), crf)[0]
    assert torch.allclose(found, torch.tensor(REFERENCE), rtol=0, atol=2e-5)


@pytest.mark.parametrize("iterations", [1, 2, 7])
def test_without_the_lattice_the_mean_field_is_exact(iterations: int) -> None:
    crf = crf_of(2, 1.5, 0, 80, 13, iterations)
    image, probabilities = colour_edges(), noisy(areas(), 3)
    expected = exact_refinement(crf, probabilities, image)
    assert torch.allclose(refine(probabilities, image, crf).double(), expected, atol=2e-5)


def test_on_one_colour_it_smooths() -> None:
    """Without colour edges the noise goes, the edge stays, and the exact mean field agrees."""
    image = torch.full((HEIGHT, WIDTH, 3), 90, dtype=torch.uint8)
    ids = (torch.arange(WIDTH) < 12).long().expand(HEIGHT, WIDTH)
    probabilities = noisy(ids, 2, certainty=1)
    found = refine(probabilities, image, SMALL)
    expected = exact_refinement(SMALL, probabilities, image)
    # Where both classes weigh the same, the lattice's error of some per cent may decide.
    assert (found.argmax(0) == expected.argmax(0)).double().mean() > 0.96
    assert iou(found.argmax(0), ids) > iou(probabilities.argmax(0), ids) + 0.15


def test_off_it_returns_what_it_got() -> None:
    probabilities, image = noisy(areas(), 3), colour_edges()
    off = crf_of(3, 3, 10, 80, 13, 0)
    assert torch.equal(refine(probabilities, image, off), probabilities)
    weightless = crf_of(0, 3, 0, 80, 13, 5)
    assert torch.allclose(refine(probabilities, image, weightless), probabilities, atol=1e-6)


def test_certain_pixels_stay_certain_and_finite() -> None:
    """Zeros have no logarithm."""
    ids = areas()
    probabilities = torch.nn.functional.one_hot(ids, 4).permute(2, 0, 1).float()
    probabilities[:, 0, 0] = 0
    found = refine(probabilities, colour_edges(), USUAL)
    assert found.isfinite().all()
    assert (found >= 0).all()
    assert torch.allclose(found.sum(0), torch.ones(HEIGHT, WIDTH), atol=1e-5)
    assert torch.equal(found[:, 1:].argmax(0), ids[1:])


def test_labels_snap_to_the_colour_edge() -> None:
    """A coarse, noisy segmentation of a two-coloured image becomes the image's areas."""
    truth = torch.zeros(48, 64, dtype=torch.int64)
    rows, columns = torch.meshgrid(torch.arange(48), torch.arange(64), indexing="ij")
    truth[(rows - 24).square() + (columns - 30).square() < 18**2] = 1
    image = torch.where(truth[..., None] == 1, 170.0, 80.0).repeat(1, 1, 3)
    image += 5 * torch.randn(image.shape, generator=generator())
    # Moved by 3 pixels and made of blocks of 4, as a network of low resolution has it.
    coarse = truth.roll((3, -3), (0, 1))[::4, ::4]
    coarse = coarse.repeat_interleave(4, 0).repeat_interleave(4, 1)
    probabilities = noisy(coarse, 2, certainty=1.5)
    before = probabilities.argmax(0)
    crf = crf_of(3, 3, 10, 30, 20, 10)
    after = refine(probabilities, image.round().clamp(0, 255).byte(), crf).argmax(0)
    assert iou(before, truth) < 0.75
    assert iou(after, truth) > 0.97


@pytest.mark.parametrize("classes", [1, 2, 5, 21, 255])
def test_every_number_of_classes(classes: int) -> None:
    ids = areas() % classes
    found = refine(noisy(ids, classes), colour_edges(), SMALL)
    assert found.shape == (classes, HEIGHT, WIDTH)
    assert found.dtype == torch.float32
    assert found.is_contiguous()
    assert torch.allclose(found.sum(0), torch.ones(HEIGHT, WIDTH), atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2)])
def test_thin_images(shape: tuple[int, int]) -> None:
    image = torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, generator=generator())
    probabilities = noisy(torch.zeros(shape, dtype=torch.int64), 3)
    found = refine(probabilities, image, USUAL).double()
    assert found.shape == (3, *shape)
    assert torch.allclose(found.sum(0), torch.ones(shape, dtype=torch.float64), atol=1e-5)
    if shape == (1, 1):  # alone it strengthens itself: both kernels are 1, and contain the pixel
        assert torch.allclose(found, exact_refinement(USUAL, probabilities, image), atol=1e-4)


def test_the_same_bits_again() -> None:
    image, probabilities = colour_edges(noise=30), noisy(areas(), 5)
    before = probabilities.clone(), image.clone()
    first = refine(probabilities, image, USUAL)
    assert torch.equal(first, refine(probabilities, image, USUAL))
    assert torch.equal(probabilities, before[0])
    assert torch.equal(image, before[1])
    with torch.inference_mode():
        assert torch.equal(first, refine(probabilities, image, USUAL))
    asked = probabilities.clone().requires_grad_()
    assert not refine(asked, image, USUAL).requires_grad


def test_what_does_not_belong_together_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(C, H, W\)"):
        refine(torch.ones(1, 4, 5), torch.zeros(5, 4, 3, dtype=torch.uint8), USUAL)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_the_gpu_it_is_the_same() -> None:
    image, probabilities = colour_edges(), noisy(areas(), 3)
    found = refine(probabilities.cuda(), image.cuda(), USUAL)
    assert found.is_cuda
    # A vertex that rounding alone brings in or leaves out moves a little.
    assert torch.allclose(found.cpu(), refine(probabilities, image, USUAL), atol=0.02)
