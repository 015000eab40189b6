"""The networks are imported without torch's compiler, which is there once something asks for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

BEGIN = "import sys, torch"
IS_THERE = "'torch._dynamo' in sys.modules"


@pytest.mark.parametrize(
    "asked",
    [
        "torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1).step()",
        "torch.compile(lambda x: x + 1, backend='eager')(torch.zeros(1))",
        "assert sys.modules['torchvision.ops.roi_align'].is_compile_supported('cpu')",
        "from torchvision.tv_tensors import Mask, wrap;"
        "assert type(wrap(torch.zeros(1, 1), like=Mask(torch.zeros(1, 1)))) is Mask",
    ],
)
def test_what_asks_for_the_compiler_gets_it(asked: str) -> None:
    run("import segops.runtime.load", f"assert not {IS_THERE}", asked, f"assert {IS_THERE}")


@pytest.mark.parametrize(
    "asked",
    [
        "from torch._dynamo import allow_in_graph",
        "import torch._dynamo.config",
        "assert torch.compiler.disable(None) and torch.compiler.disable(type('Any', (), {}))",
    ],
)
def test_a_library_that_asks_for_more_while_it_is_imported_gets_the_compiler(asked: str) -> None:
    begin = "from segops.runtime.networks.compiler import _Standing, imported_later"
    run(
        "import types; sys.modules['timm'] = types.ModuleType('timm')",
        "sys.modules['segmentation_models_pytorch'] = types.ModuleType('smp')",
        begin,
        f"assert not {IS_THERE}",
        "with imported_later():",
        f"    {asked}",
        f"assert {IS_THERE} and not isinstance(torch._dynamo, _Standing)",
    )


def test_a_compiler_that_is_there_stays() -> None:
    run(
        "import torch._dynamo as compiler",
        "import segops.runtime.load",
        "assert sys.modules['torch._dynamo'] is compiler",
    )


def run(*lines: str) -> None:
    """Run lines in a process of their own."""
    subprocess.run([sys.executable, "-c", "\n".join((BEGIN, *lines))], check=True)
