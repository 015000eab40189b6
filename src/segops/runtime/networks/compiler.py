"""Postpones the import of torch's compiler, which takes two seconds, until something asks for it.

When they are imported, timm and torchvision ask it for `disable`, which marks functions that are
not to be compiled, and torchvision's `roi_align` for `is_compile_supported`. They get functions
that import the compiler when they are called.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType, ModuleType
from typing import Any

COMPILER, UTILITIES = "torch._dynamo", "torch._dynamo.utils"


@contextmanager
def imported_later() -> Iterator[None]:
    """Let what the block imports do without the compiler, where it is not imported yet."""
    if COMPILER in sys.modules:
        yield
        return
    sys.modules[COMPILER] = _Standing(COMPILER, disable=_disable)
    sys.modules[UTILITIES] = _Standing(UTILITIES, is_compile_supported=_is_compile_supported)
    try:
        yield
    finally:
        _remove()


class _Standing(ModuleType):
    """Stands for a module until it is asked for anything else, which the module itself answers."""

    def __init__(self, name: str, **functions: Any) -> None:
        super().__init__(name)
        vars(self).update(functions)

    def __getattr__(self, name: str) -> Any:
        # `inspect` asks all modules for their files, and an import whether a module is a package.
        if name == "__file__" or (name == "__path__" and self.__name__ == UTILITIES):
            raise AttributeError(name)
        compiler = _compiler()
        return getattr(compiler if self.__name__ == COMPILER else compiler.utils, name)


def _disable(function: Any, *options: Any, **more: Any) -> Any:
    """Mark a function as `torch._dynamo.disable` does, when it is first called."""
    if not isinstance(function, FunctionType):
        return _compiler().disable(function, *options, **more)
    marked: list[Callable[..., Any]] = []

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        if not marked:
            marked.append(_compiler().disable(function, *options, **more))
        return marked[0](*arguments, **named)

    call.__dict__["_torchdynamo_disable"] = True  # as `disable` marks it
    return call


def _is_compile_supported(device_type: Any) -> Any:
    return _compiler().utils.is_compile_supported(device_type)


_is_compile_supported.__dict__["_dynamo_marked_constant"] = True  # as the real one


def _compiler() -> Any:
    _remove()
    import torch._dynamo.utils

    return torch._dynamo


def _remove() -> None:
    for name in (COMPILER, UTILITIES):
        if isinstance(sys.modules.get(name), _Standing):
            del sys.modules[name]
