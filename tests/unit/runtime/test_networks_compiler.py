"""The networks are imported without torch's compiler, which is there once something asks for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

IS_THERE = "'torch._dynamo' in sys.modules"
ALONE = (
    "import sys, types",
    "sys.modules['timm'] = types.ModuleType('timm')",
    "sys.modules['segmentation_models_pytorch'] = types.ModuleType('smp')",
    "from segops.runtime.networks.compiler import _Standing, imported_later",
    "with imported_later():",
    "    import torch",
    "    assert isinstance(sys.modules['torch._dynamo'], _Standing)",
)


@pytest.mark.parametrize(
    "asked",
    [
        "torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1).step()",
        "assert sys.modules['torchvision.ops.roi_align'].is_compile_supported('cpu')",
    ],
)
def test_the_networks_are_imported_without_the_compiler(asked: str) -> None:
    run(
        "import sys, segops.runtime.load, torch",
        f"assert not {IS_THERE}",
        asked,
        f"assert {IS_THERE}",
    )


@pytest.mark.parametrize(
    "asked",
    [
        "assert marked(torch.ones(1)).item() == 2",
        "quick = torch.compile(lambda x: marked(x * 2), backend='eager')\n"
        "assert quick(torch.ones(1)).item() == 3",
        "with pytest.raises(torch._dynamo.exc.Unsupported):\n"
        "    torch.compile(marked, backend='eager', fullgraph=True)(torch.ones(1))",
    ],
)
def test_a_function_that_is_not_to_be_compiled_is_not(asked: str) -> None:
    run(
        *ALONE,
        "    marked = torch.compiler.disable(lambda x: x + 1)",
        f"assert not {IS_THERE}",
        "import pytest",
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
    run(*ALONE, f"    {asked}", f"assert {IS_THERE} and not isinstance(torch._dynamo, _Standing)")


def test_a_compiler_that_is_there_stays() -> None:
    run(
        "import sys, torch._dynamo as compiler",
        "import segops.runtime.load",
        "assert sys.modules['torch._dynamo'] is compiler",
    )


def run(*lines: str) -> None:
    """Run lines in a process of their own."""
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)
