"""segops as a library: models, data sets, mIoU, training and the gate, one call each.

``import segops`` offers these names and loads them when they are used.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL.Image import Image

from segops import files, paths
from segops.metrics.catalogue import compute_metrics
from segops.metrics.confusion import confusion_matrix
from segops.metrics.counts import SplitCounts
from segops.metrics.iou import ClassPixels, class_pixels
from segops.metrics.iou import miou as miou_of_pixels
from segops.params.file import Params, load_params, parse_params
from segops.release.gate import decide  # noqa: F401
from segops.runtime.bands import RGB, decode_consumer_bands
from segops.runtime.classes import VOC_CLASSES, VOID
from segops.runtime.errors import SegopsError
from segops.runtime.images import require_pixels
from segops.runtime.rgb import upright_rgb
from segops.voc.bands import read_pixels
from segops.voc.layout import SPLITS, Layout, open_layout
from segops.voc.masks import read_classes
from segops.voc.reading import READ_AS_SHIPPED

if TYPE_CHECKING:
    from segops.predict.bundle import BundledPredictor

Mask = NDArray[np.uint8]
DATA = "data/voc"
"""Where :func:`fit` links the data set in its output directory."""


@dataclass(frozen=True)
class Segmentation:
    """What a model predicts for an image.

    Attributes:
        mask: uint8 of shape (H, W): a class id per pixel, at the image's own size.
        confidence: Mean over the pixels of the top class's probability, 0..1.
        class_names: The names in id order.
    """

    mask: Mask
    confidence: float
    class_names: tuple[str, ...]


class Model:
    """A trained model that predicts; :func:`load` opens one.

    Attributes:
        class_names: The names in id order.
    """

    def __init__(self, predictor: BundledPredictor) -> None:
        self._predictor = predictor
        self.class_names = predictor.class_names

    def predict(self, image: str | Path | bytes | Image | NDArray[np.uint8]) -> Segmentation:
        """Predict one image.

        Args:
            image: The path of an image file, a file's bytes, a Pillow image, or uint8 pixels of
                shape (H, W, 3), RGB. An EXIF orientation of a file or a Pillow image is applied.
                A model of other channels takes a file of as many bands, the path of a file with
                those of its further bands beside it, or pixels (H, W, B).

        Raises:
            SegopsError: The file is missing, is no image, or has too many pixels.
            ValueError: The image is of another type, dtype or shape.
        """
        prediction = self._predictor.predict(self._pixels(image))
        return Segmentation(prediction.mask, prediction.confidence, self.class_names)

    def _pixels(self, image: str | Path | bytes | Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
        to = self._predictor
        limit, channels, depth = to.max_pixels, to.channels, to.bit_depth
        if isinstance(image, (str, Path)):
            from segops.predict.image_files import decode_files, read_files

            return decode_files(read_files(Path(image), to.bands), to)
        if isinstance(image, bytes):
            return decode_consumer_bands(image, "image", limit, channels, depth)
        if isinstance(image, np.ndarray):
            if image.ndim == 3:
                require_pixels((image.shape[1], image.shape[0]), "image", limit)
            return image
        if not isinstance(image, Image):
            raise ValueError(
                f"image is {type(image).__name__}; expected a path, the bytes of an image file, a "
                "Pillow image or uint8 pixels (H, W, 3)"
            )
        require_pixels(image.size, "image", limit)
        if channels != RGB:
            raise ValueError(
                f"image is a Pillow image, which holds no {channels} bands for sure; expected a "
                f"path, the bytes of an image file, or uint8 pixels (H, W, {channels})"
            )
        return upright_rgb(image, "image", depth)


class Sample(NamedTuple):
    """One image of a data set with its mask.

    Attributes:
        image_id: Its name in the split's list.
        image: uint8 (H, W, 3), RGB, as stored; or (H, W, B) of all bands.
        mask: uint8 (H, W), class ids; 255 is void.
    """

    image_id: str
    image: NDArray[np.uint8]
    mask: Mask


class Dataset:
    """One split of a data set in VOC layout; :func:`open_dataset` opens it.

    Attributes:
        ids: The image ids, in the order of the split's list.
    """

    def __init__(self, layout: Layout, split: str) -> None:
        self._layout = layout
        self.ids = layout.ids(split)

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Sample]:
        """Read the samples one after another.

        Raises:
            SegopsError: A file is missing or cannot be decoded, or a mask holds ids of no class.
        """
        for image_id in self.ids:
            image = read_pixels(self._layout, image_id)
            mask = read_classes(self._layout.mask_path(image_id), self._layout.reading)
            if image.shape[:2] != mask.shape:
                raise SegopsError(
                    f"{image_id}: the image is {image.shape[1]} x {image.shape[0]} pixels, its "
                    f"mask {mask.shape[1]} x {mask.shape[0]}. Give the mask the image's size."
                )
            yield Sample(image_id, image, mask)


def load(
    model: str | Path | None = None, workspace: str | Path | None = None, device: str = "auto"
) -> Model:
    """Open a model.

    Args:
        model: ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``, a bundle's directory, or None for
            the champion of the workspace's model.
        workspace: The checkout whose record holds registered models; None: the one around the
            current directory.
        device: A torch device, or `auto`: the GPU if there is one, else the CPU.

    Raises:
        SegopsError: There is no such model or device.
    """
    from segops.predict.bundle import load_bundle
    from segops.release.resolve import resolved

    name = None if model is None else str(model)
    is_bundle = name is not None and not name.startswith("models:")
    root = Path() if is_bundle else paths.workspace(None if workspace is None else Path(workspace))
    with resolved(name, root) as bundle:
        return Model(load_bundle(bundle, device))


def open_dataset(
    path: str | Path,
    split: str = "val",
    params: Params | str | Path | Mapping[str, Any] | None = None,
) -> Dataset:
    """Open one split of a data set in VOC layout.

    Args:
        path: The directory that holds ``JPEGImages``, ``SegmentationClass`` and ``ImageSets``.
        split: `train` or `val`.
        params: As for :func:`fit`; its section `data` says how the files are read. None: images are
            RGB, and each id of a mask is the class of its number.

    Raises:
        SegopsError: The parameters are not usable, the directory has no VOC layout, or the list is
            missing or not usable.
    """
    if split not in SPLITS:
        raise SegopsError(f"split is {split!r}; expected {' or '.join(SPLITS)}.")
    reading = READ_AS_SHIPPED if params is None else _parameters(params).data.reading
    return Dataset(open_layout(Path(path), reading), split)


def miou(
    truth: Mask | Iterable[Mask],
    prediction: Mask | Iterable[Mask],
    classes: int | Sequence[str] = VOC_CLASSES,
) -> float:
    """Mean IoU over the classes that occur in the truth, from one confusion matrix.

    Args:
        truth: A uint8 mask of shape (H, W), or the masks of a split; 255 is void.
        prediction: As many masks, each of the size of its truth.
        classes: Number of classes, or their names.

    Returns:
        0..1; NaN where no class occurs in the truth.

    Raises:
        ValueError: Masks and predictions do not match, or a value is no class id.
    """
    if isinstance(classes, str):
        raise ValueError(f"classes is {classes!r}; expected a number or a list of names")
    count = len(classes) if isinstance(classes, Sequence) else operator.index(classes)
    if not 1 <= count <= VOID:
        raise ValueError(f"classes is {count}; expected 1 to {VOID}")
    truths, predictions = list(_masks(truth)), list(_masks(prediction))
    if len(truths) != len(predictions):
        raise ValueError(f"{len(truths)} masks of truth, {len(predictions)} predictions")
    return float(miou_of_pixels(*_pixels(zip(truths, predictions, strict=True), count)))


def score(model: Model, dataset: Dataset) -> dict[str, Any]:
    """Predict every image of a data set and compare with its mask.

    Returns:
        The metrics that follow from the pixels of each class: `miou`, `pixel_accuracy`, ..., and
        `classes` by name. Undefined values are None.

    Raises:
        SegopsError: An image cannot be read, or a mask holds ids that the model does not know.
    """
    pairs = ((one.mask, model.predict(one.image).mask) for one in dataset)
    try:
        pixels = _pixels(pairs, len(model.class_names))
    except ValueError as error:
        names = ", ".join(model.class_names)
        raise SegopsError(f"The model's classes ({names}) and the masks differ: {error}") from None
    return compute_metrics(SplitCounts(pixels), model.class_names)


def _parameters(params: Params | str | Path | Mapping[str, Any]) -> Params:
    if isinstance(params, (str, Path)):
        return read_params(params)
    if isinstance(params, Params):
        return params
    return parse_params(dict(params) if isinstance(params, Mapping) else params)


def fit(
    params: Params | str | Path | Mapping[str, Any],
    dataset: str | Path,
    output: str | Path,
) -> Model:
    """Train a model as the stages do: validate, prepare, augment, train, package.

    A training that was killed continues when the same call is made again. No run is recorded and
    no version registered; `segops run` does that in a checkout.

    Args:
        params: Parameters, as :func:`read_params` reads them, the path of a ``params.yaml``, or
            its content. `data.path` is checked and not used.
        dataset: The data set's directory in VOC layout.
        output: The directory that all is written to: ``params.yaml``, the model's bundle
            ``models/segmenter``, pages in ``reports``, learning curves in ``plots``.

    Raises:
        SegopsError: `output` is a checkout, or another training runs there; the parameters ask for
            several devices; the parameters or the data are not usable; or the training diverged.
    """
    from segops.release.resolve import resolved

    read = _parameters(params)
    root, source = Path(output), Path(dataset).resolve()
    if (root / "dvc.yaml").exists():
        raise SegopsError(f"{root}: a checkout, where `dvc repro` trains. Give another directory.")
    if read.train.nodes > 1 or read.train.devices not in (1, "auto"):
        raise SegopsError(
            f"train.devices is {read.train.devices}, train.nodes {read.train.nodes}: segops.fit "
            "trains on one device. Set both to 1, or use `segops run` in a checkout."
        )
    if isinstance(params, (str, Path)) and root.resolve() in (
        Path(params).resolve(),
        Path(params).resolve().parent,
    ):
        raise SegopsError(f"{root}: holds the parameters that were given. Give another output.")
    open_layout(source, read.data.reading)
    if root.resolve().is_relative_to(source):
        raise SegopsError(f"{root}: lies in the data set {source}. Give another output.")
    tree = read.model_dump(mode="json", by_alias=True)
    tree["data"]["path"] = DATA
    tree["train"]["devices"] = 1
    model = tree["model"]
    if model["encoder_weights"] and Path(model["encoder_weights"]).expanduser().is_file():
        model["encoder_weights"] = str(Path(model["encoder_weights"]).expanduser().resolve())
    with ExitStack() as bundles:
        for section, key in (("model", "start_from"), ("train", "teacher")):
            if (named := tree[section][key]) is not None:
                home = paths.workspace() if named.startswith("models:") else Path()
                bundle = bundles.enter_context(resolved(named, home))
                tree[section][key] = str(bundle.resolve())
        return _trained(root, source, tree)


def read_params(path: str | Path) -> Params:
    """Read and check a ``params.yaml``: the file, or the directory that holds it.

    Raises:
        SegopsError: The file is missing or is no YAML, a key is unknown, or a value is not allowed;
            the message lists all of them.
    """
    return load_params(Path(path))


def _masks(masks: Mask | Iterable[Mask]) -> Iterable[Mask]:
    return [masks] if isinstance(masks, np.ndarray) and masks.ndim == 2 else masks


def _pixels(pairs: Iterable[tuple[Mask, Mask]], classes: int) -> ClassPixels:
    """The pixels of each class over pairs of truth and prediction."""
    total = np.zeros((classes, classes), np.int64)
    for truth, prediction in pairs:
        total += confusion_matrix(truth, prediction, classes)
    return class_pixels(total)


def _trained(root: Path, source: Path, tree: dict[str, Any]) -> Model:
    """Run the stages in a directory of their own, on a data set that is linked there."""
    from segops.stages import augment, package, prepare, train, validate

    link = root / DATA
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SegopsError(f"{root}: not usable as a directory: {error.strerror}.") from None
    with files.exclusive(root / paths.RUN_LOCK, "another training"), _without_record():
        if link.is_symlink():
            link.unlink()
        elif link.exists() and link.resolve() != source:
            raise SegopsError(f"{link}: holds another data set. Give another output directory.")
        if not link.exists():
            link.symlink_to(source, target_is_directory=True)
        files.write_text(root / "params.yaml", yaml.safe_dump(tree))
        for stage in (validate, prepare, augment, train, package):
            try:
                stage.run(root)
            except SegopsError as error:
                raise SegopsError(f"{root}: {error}") from None
    return load(root / paths.SEGMENTER)


@contextmanager
def _without_record() -> Iterator[None]:
    """Let the training start no process that logs to MLflow."""
    before = os.environ.get("SEGOPS_LIVE")
    os.environ["SEGOPS_LIVE"] = "0"
    try:
        yield
    finally:
        del os.environ["SEGOPS_LIVE"]
        if before is not None:
            os.environ["SEGOPS_LIVE"] = before
