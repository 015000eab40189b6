"""Makes exports of a bundle: directories that :func:`segops.predict.bundle.load_bundle` opens.

    model.onnx            the network; for OpenVINO model.xml and model.bin
    model.json            what the bundle says of itself, and under `export` the whole contract
    runtime/              a copy of segops.runtime, whose NumPy code predicts without torch
    requirements.txt      exact versions of the libraries

As of a bundle, the digest of an export is the same for the same bundle, code and libraries.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segops import files
from segops.params.compatibility import export_refusal
from segops.predict.bundle import (
    EXPORT,
    BundledPredictor,
    bundle_digest,
    open_read,
    read_bundle,
    weights_sha256,
)
from segops.predict.package import REQUIREMENTS, ROOM, code_files, requirements
from segops.runtime import opener
from segops.runtime.classes import Classes, hexadecimal
from segops.runtime.errors import SegopsError
from segops.runtime.exported.build import IMAGES, LOGITS

ENTRIES = ("segops.runtime.exported.onnx_network", "segops.runtime.exported.openvino_network")
"""The modules of an export's runtime that other code calls."""


@dataclass(frozen=True)
class Form:
    """A form that a model can be exported in.

    Attributes:
        runtime: The format, of :data:`segops.runtime.opener.ENTRIES`.
        quantize: `int8`, or None for float32.
        library: The distribution that runs it.
    """

    runtime: str
    quantize: str | None
    library: str


FORMS = {
    "onnx": Form(opener.ONNX, None, "onnxruntime"),
    "onnx-int8": Form(opener.ONNX, "int8", "onnxruntime"),
    "openvino": Form(opener.OPENVINO, None, "openvino"),
    "openvino-int8": Form(opener.OPENVINO, "int8", "openvino"),
}
"""By the name of its directory."""


def forms(formats: Sequence[str], quantize: str | None) -> list[str]:
    """The forms that section `export` asks for: each format in float32, and quantised beside it."""
    found = []
    for name in formats:
        found += [name] if quantize is None else [name, f"{name}-{quantize}"]
    return found


def export(
    bundle: Path,
    targets: Mapping[str, Path],
    calibration: Sequence[str] = (),
    images: Iterable[NDArray[np.uint8]] = (),
) -> dict[str, str]:
    """Write forms of a bundle, each whole or not at all.

    Args:
        bundle: A bundle of torch's weights.
        targets: By the form's name (:data:`FORMS`), the directory to write; what lies there is
            replaced.
        calibration: What the calibration images are called, for the record.
        images: These images, uint8 (H, W, B); read where a form is quantised.

    Returns:
        The digest of each export, by the form's name.

    Raises:
        SegopsError: The directory is no bundle of torch's weights, its network cannot be exported,
            its settings take torch, there is no image to calibrate on, or a library is missing.
    """
    quantized = any(FORMS[name].quantize for name in targets)
    if quantized and not calibration:
        raise SegopsError(
            "export.quantize: train holds no image to calibrate on. Put images into train, or set "
            "export.quantize to null."
        )
    held = read_bundle(bundle)
    for name in targets:
        _require_library(FORMS[name].library)
    predictor = open_read(held)
    if EXPORT in predictor.model:
        raise SegopsError(f"{bundle}: is an export itself. Export the model that it was made of.")
    _require_exportable(predictor)
    from segops.export.graph import quantize, write_onnx  # torch's exporter takes seconds

    with files.scratch() as scratch:
        graphs = {None: scratch / "float32.onnx", "int8": scratch / "int8.onnx"}
        write_onnx(predictor.network, graphs[None])
        if quantized:
            quantize(graphs[None], graphs["int8"], images)
        for name, target in targets.items():
            form = FORMS[name]
            with files.atomic_directory(target) as temporary:
                _write_network(form, graphs[form.quantize], temporary)
                model = _description(predictor, form, weights_sha256(held), calibration)
                text = json.dumps(model, indent=2, sort_keys=True, allow_nan=False) + "\n"
                (temporary / opener.MODEL).write_text(text, encoding="utf-8")
                libraries = ("numpy", "pillow", "pydantic", form.library)
                (temporary / REQUIREMENTS).write_text(requirements(libraries), encoding="utf-8")
                for path, content in code_files(ROOM, exported=True).items():
                    copy = temporary / path
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    copy.write_bytes(content)
    return {name: bundle_digest(target) for name, target in targets.items()}


def usable() -> list[str]:
    """The names of the forms whose library is installed."""
    return [name for name, form in FORMS.items() if _is_installed(form.library)]


def _is_installed(library: str) -> bool:
    try:
        version(library)
    except PackageNotFoundError:
        return False
    return True


def _require_library(library: str) -> None:
    if not _is_installed(library):
        raise SegopsError(
            f"export: {library} is not installed. `pip install {library}` installs it, or take "
            "another of export.formats."
        )


def _require_exportable(predictor: BundledPredictor) -> None:
    crf = (predictor.model.get("predict") or {}).get("crf") or {}
    architecture = str(predictor.model["spec"].get("architecture"))
    reason = export_refusal(architecture, crf.get("iterations", 0))
    if reason is not None:
        raise SegopsError(f"{reason}.")


def _write_network(form: Form, graph: Path, directory: Path) -> None:
    """Write the files of :data:`segops.runtime.opener.ENTRIES`."""
    first = opener.ENTRIES[form.runtime][1][0]
    if form.runtime == opener.ONNX:
        (directory / first).write_bytes(graph.read_bytes())
        return
    import openvino

    model = openvino.Core().read_model(graph)
    # OpenVINO numbers operators across the whole process, so that the names would differ from one
    # export to the next.
    model.set_friendly_name("segmenter")
    for number, operator in enumerate(model.get_ordered_ops()):
        if operator.get_type_name() not in ("Parameter", "Result"):
            operator.set_friendly_name(f"{operator.get_type_name()}_{number}")
    openvino.serialize(model, directory / first)


def _description(
    predictor: BundledPredictor, form: Form, weights: str, calibration: Sequence[str]
) -> dict[str, Any]:
    """The content of ``model.json``: the bundle's own, and the contract with other software."""
    from segops.export.graph import OPSET

    model = dict(predictor.model)
    source: Any = predictor.network
    classes = Classes.of_model(model)
    palette = classes.palette()[: len(classes.names)]
    model["format"] = form.runtime
    model[EXPORT] = {
        "runtime": form.runtime,
        "runtime_version": version(form.library),
        "quantize": form.quantize,
        "calibration_images": list(calibration) if form.quantize else [],
        "opset": OPSET,
        "input": {
            "name": IMAGES,
            "dtype": "float32",
            "shape": ["N", predictor.channels, "H", "W"],
            "values": "0..255, not normalised; any N, H and W; channels as in `channels`",
        },
        "output": {
            "name": LOGITS,
            "dtype": "float32",
            "shape": ["N", len(classes.names), "H", "W"],
            "values": "logits; the class of a pixel is the first largest along axis 1",
        },
        "channels": "RGB" if predictor.channels == 3 else f"{predictor.channels} bands as stored",
        "bands": list(predictor.bands.directories),
        "bit_depth": predictor.bit_depth,
        "stride": int(source.stride),
        "max_pixels": predictor.max_pixels,
        "palette": [hexadecimal(color) for color in palette],
        "weights_sha256": weights,
        "bundle_digest": predictor.digest,
    }
    return model
