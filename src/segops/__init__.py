"""segops: from PASCAL VOC files to a promoted segmentation model, again and again.

The names of :mod:`segops.library` are loaded when they are used, so that the import costs nothing.

Importing it shortens how long idle threads of OpenMP spin before they sleep, for this process and
its children, where torch is not loaded yet and the user has not chosen. Spinning takes the cores
from whatever else runs on the machine, and from the threads that are waited for: beside other work
a training is then several times slower. It changes no result.
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segops.library import (
        Dataset,
        Model,
        Sample,
        Segmentation,
        fit,
        load,
        miou,
        open_dataset,
        read_params,
        score,
    )
    from segops.release.gate import decide
    from segops.runtime.errors import SegopsError

__version__ = "0.1.0"
__all__ = [
    "Dataset",
    "Model",
    "Sample",
    "Segmentation",
    "SegopsError",
    "decide",
    "fit",
    "load",
    "miou",
    "open_dataset",
    "read_params",
    "score",
]

if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "10000"


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from segops import library

    return getattr(library, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
