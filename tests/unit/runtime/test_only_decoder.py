"""One module alone gives files to the decoders of pictures, so that one place names the formats."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[3]
OWN = ROOT / "src/segops/runtime/images.py"
JPEG_ALONE = ROOT / "src/segops/quality/jpeg_reader.py"
"""Decodes, for its warnings, what is JPEG by its first bytes; a test of it tells."""
VIDEOS = ROOT / "src/segops/predict/video_file.py"
"""Tells FFmpeg which containers and codecs it may use; a test of it tells."""
DECODERS = frozenset(
    {"imread", "imreadmulti", "imdecode", "imdecodemulti", "imreadanimation", "imdecodeanimation",
     "VideoCapture", "decode_jpeg", "decode_png", "tifffile", "imageio", "skimage",
     "torchvision.io", "matplotlib.image"}
)  # fmt: skip
"""Names under which other libraries decode pictures."""


def decoders(path: Path) -> Iterator[str]:
    """What a module decodes pictures with, and where."""
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        match node:
            case ast.Attribute(value=ast.Name("Image"), attr="open"):
                names = ["Image.open"]
            case ast.Attribute(attr=name) if name in DECODERS:
                names = [name]
            case ast.Import():
                names = [alias.name for alias in node.names if alias.name in DECODERS]
            case ast.ImportFrom(module="PIL"):
                own = ("Plugin", "ImageFile", "ImageSequence")
                names = [alias.name for alias in node.names if alias.name.endswith(own)]
                # Modules that ask an image that is open for its tags or its checksums.
                names = [one for one in names if one not in ("TiffImagePlugin", "PngImagePlugin")]
            case ast.ImportFrom(level=0, module=str(module)):
                names = [one for one in (module, *(a.name for a in node.names)) if one in DECODERS]
        yield from (f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)} {one}" for one in names)


def test_no_other_module_decodes_pictures() -> None:
    """``Image.open`` and OpenCV choose a decoder by a file's content, Ghostscript among them."""
    modules = [path for room in ("src", "flows", "tools") for path in (ROOT / room).rglob("*.py")]
    assert [
        one for path in modules if path not in (OWN, JPEG_ALONE, VIDEOS) for one in decoders(path)
    ] == []
    assert any(decoders(OWN)), "the search finds nothing"
