"""The networks are imported without torch's compiler, which is there once something asks for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

IS_THERE = "'torch._dynamo' in sys.modules"
MASK = "Mask(torch.zeros(1, 1))"


@pytest.mark.parametrize(
    "asked",
    [
        "torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1).step()",
        "assert sys.modules['torchvision.ops.roi_align'].is_compile_supported('cpu')",
        f"assert type(wrap(torch.zeros(1, 1), like={MASK})) is Mask",
        f"quick = torch.compile(lambda x: wrap(x + 1, like={MASK}), backend='eager');"
        "made = quick(torch.ones(1, 1)); assert type(made) is Mask and made.item() == 2",
    ],
)
def test_what_asks_for_the_compiler_gets_it(asked: str) -> None:
    run(
        "import sys, segops.runtime.load, torch",
        "from torchvision.tv_tensors import Mask, wrap",
        f"assert not {IS_THERE}",
        asked,
        f"assert {IS_THERE}",
    )


@pytest.mark.parametrize(
    "asked",
    [
        "from torch._dynamo import allow_in_graph",
        "assert torch.compiler.disable(None)",
        "assert torch.compiler.disable(type('Any', (), {}))",
    ],
)
def test_a_library_that_asks_for_more_while_it_is_imported_gets_the_compiler(asked: str) -> None:
    run(
        "import sys, types",
        "sys.modules['timm'] = types.ModuleType('timm')",
        "sys.modules['segmentation_models_pytorch'] = types.ModuleType('smp')",
        "from segops.runtime.networks.compiler import _Standing, imported_later",
        "with imported_later():",
        "    import torch",
        "    assert isinstance(sys.modules['torch._dynamo'], _Standing)",
        f"    {asked}",
        f"assert {IS_THERE} and not isinstance(torch._dynamo, _Standing)",
    )


def test_a_compiler_that_is_there_stays() -> None:
    run(
        "import sys, torch._dynamo as compiler",
        "import segops.runtime.load",
        "assert sys.modules['torch._dynamo'] is compiler",
    )


def run(*lines: str) -> None:
    """Run lines in a process of their own."""
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)
