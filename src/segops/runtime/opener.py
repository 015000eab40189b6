"""Opens a model bundle with the bundle's own code, imported under a name that only it has.

So bundles with different code can be open in the same process, with any version of segops or none.
Files are read once, so that the code that runs is the code that was checked; byte code of a
``__pycache__`` is never run. This module is part of the bundle and needs the standard library only.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

RUNTIME = "runtime"
MODEL = "model.json"
WEIGHTS = "weights.safetensors"
BIT_DEPTH = "bit_depth"
"""Key of ``model.json``: see :class:`.images.Photographs`; where it is missing, the upper 8 bits of
16 are taken."""
BANDS = "bands"
"""Key of ``model.json``: names of the directories whose files hold a band each; missing: none."""
THREADS = "threads"
"""Key of the description that a loader gets: threads of an export's runtime; missing: its own
choice. It is never in the file."""
FORMAT = 2
"""Format of new bundles."""
ONNX, OPENVINO = "onnx", "openvino"
"""Formats of exports: :mod:`segops.export` makes them of bundles."""
ENTRIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "1": ("predict.load", (WEIGHTS,)),
    str(FORMAT): ("load", (WEIGHTS,)),
    ONNX: ("exported.onnx_network", ("model.onnx",)),
    OPENVINO: ("exported.openvino_network", ("model.xml", "model.bin")),
}
"""By format: the module of the runtime that loads the model, and the files that hold it."""


MOST_BYTES = 32 << 30
"""Bytes of all files of a bundle, which are held in memory while it is opened."""


class BundleError(Exception):
    """The directory is no usable bundle, or another bundle than expected."""


class Bundle:
    """The files of a bundle or an export in memory: what is checked is what is used.

    Attributes:
        directory: Where they were read, for messages.
        files: Content of each file by its relative path; byte code is left out.
        digest: SHA-256 over them; see :func:`digest`.
    """

    def __init__(self, directory: Path, files: Mapping[str, bytes]) -> None:
        self.directory, self.files, self.digest = directory, files, digest(files)

    @classmethod
    def read(cls, directory: Path, expected_digest: str | None = None) -> Bundle:
        """Read every file of a directory once, and run none.

        Args:
            directory: The bundle.
            expected_digest: Digest that it must have; None: any.

        Raises:
            BundleError: The directory is no bundle, has another digest, or holds more than
                :data:`MOST_BYTES`.
        """
        files: dict[str, bytes] = {}
        left = MOST_BYTES
        for path in sorted(directory.rglob("*")):
            name = path.relative_to(directory)
            if path.is_file() and "__pycache__" not in name.parts:
                files[name.as_posix()] = _content(path, left)
                left -= len(files[name.as_posix()])
        missing = [name for name in (MODEL, f"{RUNTIME}/__init__.py") if name not in files]
        if not any(all(name in files for name in names) for _, names in ENTRIES.values()):
            missing.append(WEIGHTS)
        if missing:
            raise BundleError(
                f"{directory}: not a model bundle: {', '.join(missing)} missing. "
                "The stage `package` writes one."
            )
        bundle = cls(directory, files)
        if expected_digest is not None and bundle.digest != expected_digest:
            raise BundleError(
                f"{directory}: digest {bundle.digest}; expected {expected_digest}. "
                "The bundle was changed after it was made; its code was not run. Get it anew."
            )
        return bundle

    @property
    def model(self) -> dict[str, Any]:
        """Content of ``model.json``, a new dictionary each time.

        Raises:
            BundleError: It is no description of a model.
        """
        try:
            model = json.loads(self.files[MODEL])
        except ValueError as error:
            raise BundleError(f"{self.directory / MODEL}: not JSON: {error}.") from None
        if not isinstance(model, dict):
            raise BundleError(
                f"{self.directory / MODEL}: not the description of a model. Get it anew."
            )
        return model

    def open(
        self,
        device: str = "cpu",
        predict: Mapping[str, Any] | None = None,
        threads: int | None = None,
    ) -> Any:
        """Return the bundle's own predictor. Arguments and errors are of :func:`open_bundle`."""
        model = self.model
        entry, names = ENTRIES.get(str(model.get("format")), ("", ()))
        if not entry:
            raise BundleError(
                f"{self.directory / MODEL}: format {model.get('format')!r}; this code reads "
                f"{', '.join(ENTRIES)}. Use the version of segops that made it."
            )
        if not {"spec", "class_names"} <= model.keys():
            raise BundleError(f"{self.directory / MODEL}: lacks spec or class_names. Get it anew.")
        if missing := [name for name in names if name not in self.files]:
            raise BundleError(f"{self.directory}: lacks {', '.join(missing)}. Get it anew.")
        if f"{RUNTIME}/{entry.replace('.', '/')}.py" not in self.files:
            raise BundleError(
                f"{self.directory}: of format {model['format']} by its {MODEL}, but its {RUNTIME} "
                f"lacks {entry}. Get it anew."
            )
        if predict is not None:
            model["predict"] = dict(predict)
        if threads is not None:
            model[THREADS] = threads
        package = f"segops_bundle_{self.digest}"
        if not any(getattr(finder, "package", None) == package for finder in sys.meta_path):
            sys.meta_path.append(_Runtime(self.files, self.directory, package))
        loader = importlib.import_module(f"{package}.{entry}")
        return loader.load(model, *(self.files[name] for name in names), device)


def open_bundle(
    directory: Path,
    device: str = "cpu",
    expected_digest: str | None = None,
    predict: Mapping[str, Any] | None = None,
    threads: int | None = None,
) -> Any:
    """Open a bundle or an export and return its own predictor.

    Args:
        directory: The bundle.
        device: A torch device, or `auto`: the GPU if there is one, else the CPU.
        expected_digest: Digest that the bundle must have, checked before its code is run.
        predict: Settings in place of the bundle's own.
        threads: CPU threads of an export's runtime; None: its own choice. Those of torch are set
            for the whole process, not here.

    Raises:
        BundleError: The directory is no bundle, or has another digest.
    """
    return Bundle.read(directory, expected_digest).open(device, predict, threads)


def digest(files: Mapping[str, bytes]) -> str:
    """SHA-256 over the sorted lines "path, tab, SHA-256 of the content", in hexadecimal."""
    total = hashlib.sha256()
    for name in sorted(files):
        total.update(f"{name}\t{hashlib.sha256(files[name]).hexdigest()}\n".encode())
    return total.hexdigest()


def _content(path: Path, most: int) -> bytes:
    """Content of a file of at most so many bytes."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(size) if size <= most else b""
        if size > most or file.read(1):
            raise BundleError(
                f"{path}: too large, or it grew while it was read: the files of a bundle have "
                f"{MOST_BYTES >> 30} GiB at most. Get the bundle anew."
            )
    return content


class _Runtime(MetaPathFinder, Loader):
    """Finds and loads the modules of one bundle from memory."""

    def __init__(self, contents: Mapping[str, bytes], directory: Path, package: str) -> None:
        self.package = package
        self.sources = {
            name: source for name, source in contents.items() if name.startswith(f"{RUNTIME}/")
        }
        self.directory = directory.resolve()

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """The specification of a module of this bundle; None for all others."""
        if fullname != self.package and not fullname.startswith(f"{self.package}."):
            return None
        place = RUNTIME + fullname.removeprefix(self.package).replace(".", "/")
        for name, is_package in ((f"{place}/__init__.py", True), (f"{place}.py", False)):
            if name in self.sources:
                origin = str(self.directory / name)
                spec = ModuleSpec(
                    fullname, self, origin=origin, loader_state=name, is_package=is_package
                )
                spec.has_location = True  # for __file__ and the lines in tracebacks
                return spec
        return None

    def get_code(self, fullname: str) -> CodeType:
        """Compile a module of this bundle."""
        spec = self.find_spec(fullname, None)
        if spec is None:
            raise ImportError(f"{fullname} is no module of this bundle", name=fullname)
        code: CodeType = compile(
            self.sources[spec.loader_state], str(spec.origin), "exec", dont_inherit=True
        )
        return code

    def exec_module(self, module: ModuleType) -> None:
        """Run a module of this bundle."""
        exec(self.get_code(module.__name__), module.__dict__)
