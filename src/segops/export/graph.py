"""Writes a network as ONNX, and lowers it to INT8; the same network gives the same bytes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from segops.export.network import WholeNetwork
from segops.runtime.errors import SegopsError
from segops.runtime.exported.build import IMAGES, LOGITS
from segops.words import first_line

OPSET = 20
LIBRARIES = ("onnx", "onnx-ir", "onnxruntime", "onnxscript")
"""Distributions whose version decides the graph, beside torch."""

LARGEST_SIDE = 512
"""Height and width to which a calibration image is cut: calibration keeps all activations in
memory."""

QUANTIZED = ("Add", "Concat", "Conv", "ConvTranspose", "Gemm", "MatMul", "MaxPool", "Relu")
"""Operators that INT8 computes; resizing and the normalisation stay in float32."""

_EXAMPLE = (2, 75, 107)
"""Images, height and width that the exporter sees: no multiple of a stride, and not equal."""
_LARGEST_FILE = 2 << 30
"""Bytes of a message of protobuf, which an ONNX file is."""


def write_onnx(segmenter: nn.Module, path: Path) -> None:
    """Write a network as one ONNX file for any number, height and width of images.

    The input `images` is float32 (N, B, H, W) in 0..255, the output `logits` float32 (N, C, H, W).
    Normalisation, padding to the stride and cropping are inside.

    Args:
        segmenter: As :func:`segops.runtime.networks.zoo.build` returns it, in any version's code.
        path: The file.

    Raises:
        SegopsError: The exporter cannot export this network.
    """
    whole = WholeNetwork(segmenter).cpu().eval()
    count, height, width = _EXAMPLE
    images = torch.zeros(count, whole.offset.shape[1], height, width)
    free = torch.export.Dim.DYNAMIC
    try:
        with _quiet(), torch.random.fork_rng(devices=[]):
            program = torch.onnx.export(
                whole,
                (images,),
                dynamo=True,
                dynamic_shapes=({0: free, 2: free, 3: free},),
                input_names=[IMAGES],
                output_names=[LOGITS],
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter's own errors have no common base
        raise SegopsError(
            f"The network cannot be exported to ONNX: {type(error).__name__}: {first_line(error)}."
        ) from error
    assert program is not None
    model = _plain(program.model_proto)
    if not _is_free(model):
        raise SegopsError(
            "The network cannot be exported to ONNX: the exporter fixed the number or the size of "
            "its images. Choose another model.architecture or model.encoder."
        )
    if model.ByteSize() >= _LARGEST_FILE:
        raise SegopsError(
            f"The network cannot be exported to ONNX: it takes {model.ByteSize() / 2**30:.1f} GiB; "
            "one file holds 2 at most. Choose a smaller model.encoder."
        )
    path.write_bytes(model.SerializeToString(deterministic=True))


def quantize(source: Path, path: Path, images: Iterable[NDArray[np.uint8]]) -> None:
    """Lower an ONNX file of :func:`write_onnx` to INT8: static, a scale for each channel, QDQ.

    The classifier, the last convolution, stays in float32: its scores decide between classes.

    Args:
        source: The float32 network.
        path: The file to write.
        images: Calibration images uint8 (H, W, B), at least one; their activations set the scales.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = path.with_suffix(".prepared.onnx")
    with _quiet():
        # Symbolic inference fails where a size is computed; the scales need no sizes.
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        nodes = onnx.load(prepared).graph.node
        last = [node.name for node in nodes if node.op_type == "Conv"][-1:]
        quantization.quantize_static(
            prepared,
            path,
            _Reader(images),
            per_channel=True,
            op_types_to_quantize=list(QUANTIZED),
            nodes_to_exclude=last,
        )
    prepared.unlink()
    path.write_bytes(_plain(onnx.load(path)).SerializeToString(deterministic=True))


class _Reader:
    """Hands calibration images to ONNX Runtime, one at a time."""

    def __init__(self, images: Iterable[NDArray[np.uint8]]) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next batch by the input's name; None at the end."""
        image = next(self._images, None)
        if image is None:
            return None
        part = image[:LARGEST_SIDE, :LARGEST_SIDE].astype(np.float32)
        return {IMAGES: np.ascontiguousarray(part.transpose(2, 0, 1)[None])}

    def __iter__(self) -> Iterator[dict[str, NDArray[np.float32]]]:
        while (batch := self.get_next()) is not None:
            yield batch


def _plain(model: Any) -> Any:
    """The model without what tells of this machine: lines of source, paths, descriptions."""
    model.doc_string = ""
    model.ClearField("metadata_props")
    graph = model.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info):
        _strip(part)
    for tensor in graph.initializer:
        _strip(tensor)
    for function in model.functions:
        for part in (function, *function.node, *function.value_info):
            _strip(part)
    return model


def _strip(part: Any) -> None:
    for name in ("doc_string", "metadata_props"):
        if name in part.DESCRIPTOR.fields_by_name:
            part.ClearField(name)


def _is_free(model: Any) -> bool:
    """Whether number, height and width of the images are open."""
    shape = model.graph.input[0].type.tensor_type.shape.dim
    return all(bool(shape[axis].dim_param) for axis in (0, 2, 3))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' messages, which do not concern the user, out of the log."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "root")]
    before = [one.level for one in loggers]
    try:
        for one in loggers:
            one.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in zip(loggers, before, strict=True):
            one.setLevel(level)
