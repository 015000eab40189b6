"""A graphics card that is not there, for machines without one.

In :func:`on_emulated_card`, a tensor that is sent to :data:`CARD` says that it lies there, and an
operation that mixes it with one on the CPU is an error, as on a real card. The content lies in the
CPU's memory and the CPU computes it. So code for a card can be run, and what comes of it be
compared, but for gradients (torch's engine asks for the driver), streams, half precision and the
card's own kernels.

The technique is that of ``torch._subclasses.fake_tensor``, which has no content.
"""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CARD = torch.device("cuda", 0)
_aten = torch.ops.aten
_TRANSFERS = {_aten._to_copy.default, _aten.copy_.default}
_INDEXING = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default}
"""Take indices that lie on the CPU too."""
_WAITING = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}


def _batch_norm(*args: Any) -> tuple[Tensor, ...]:
    return (*_aten.native_batch_norm(*args), torch.empty(0, dtype=torch.uint8))


_STAND_INS = {_aten.cudnn_batch_norm.default: _batch_norm}
"""For operations that the CPU has not."""


class _OnCard(Tensor):
    content: Tensor

    @staticmethod
    def __new__(cls: type[_OnCard], content: Tensor) -> _OnCard:
        with torch._C._DisableTorchDispatch():
            shell = torch.empty_strided(
                content.size(), content.stride(), dtype=content.dtype, device="meta"
            )
        made: _OnCard = torch.Tensor._make_subclass(
            cls, shell, False, dispatch_device=True, device_for_backend_keys=CARD
        )
        made.content = content
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"_OnCard({self.content!r})"

    def tolist(self) -> Any:
        for card in _cards:
            card.waits.append("tolist")
        return self.content.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class Card(TorchDispatchMode):
    """Runs operations, those too that make a tensor on the card out of none that lies there.

    Attributes:
        waits: Names of the operations so far for which the CPU waits: they hand it content of the
            card, or tell it a size that depends on content.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = _run(func, args, kwargs or {})
        if any(isinstance(one, _OnCard) for one in tree_leaves((args, kwargs))):
            leaves = isinstance(found, Tensor) and not isinstance(found, _OnCard)
            if leaves or _depends_on_content(func, args):
                self.waits.append(func.overloadpacket.__name__)
        return found


_cards: list[Card] = []


def _depends_on_content(func: Any, args: Any) -> bool:
    """Whether the CPU must know content of the arguments to go on."""
    if func in _INDEXING:
        return any(one is not None and one.dtype in (torch.bool, torch.uint8) for one in args[1])
    return bool(_WAITING.intersection(func.tags))


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
    there = {id(one.content): one for one in tensors if isinstance(one, _OnCard)}
    if func is torch.ops.prim.device.default:
        return CARD if there else args[0].device
    if there and func not in _TRANSFERS:
        _require_one_device(func, [args[0], *args[2:3]] if func in _INDEXING else tensors)
    wanted = kwargs.get("device")
    on_card = bool(there) if wanted is None else torch.device(wanted).type == CARD.type
    if wanted is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    compute = _STAND_INS.get(func, func)
    found = compute(*tree_map(_content, args), **tree_map(_content, kwargs))
    if func is _aten.copy_.default:
        return args[0]

    def placed(one: Any) -> Any:
        if not isinstance(one, Tensor):
            return one
        return there.get(id(one), _OnCard(one) if on_card else one)  # in place: the very argument

    return tree_map(placed, found)


def _content(one: Any) -> Any:
    return one.content if isinstance(one, _OnCard) else one


def _require_one_device(func: Any, tensors: list[Tensor]) -> None:
    strays = [one for one in tensors if not isinstance(one, _OnCard) and one.dim() > 0]
    if strays:
        raise RuntimeError(
            f"{func}: expected all tensors on the same device, found {CARD} and a tensor of shape "
            f"{tuple(strays[0].shape)} on {strays[0].device}"
        )


def _without_gradients(mode: bool = True) -> AbstractContextManager[Any]:
    return torch.no_grad() if mode else nullcontext()


@contextmanager
def _emulated_card() -> Iterator[Card]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "_lazy_init", lambda: None)
        patch.setattr(torch.cuda, "get_device_name", lambda _: "an emulated card")
        # Tensors of that mode cannot be subclassed.
        patch.setattr(torch, "inference_mode", _without_gradients)
        torch._C._ensureCUDADeviceGuardSet()
        torch._C._set_only_lift_cpu_tensors(True)
        torch.__future__.set_swap_module_params_on_conversion(True)
        with Card() as card:
            _cards.append(card)
            yield card


def on_emulated_card(act: Callable[[Card], None]) -> None:
    """Have `act` run where there is a graphics card, :data:`CARD`; its failure fails the test.

    In a process forked from this one: torch does not quite forget that it was told of a card.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def child() -> None:
        torch.set_num_threads(1)  # threads do not survive a fork
        failure = "it ended before it was done"
        try:
            with _emulated_card() as card:
                act(card)
            failure = ""
        except BaseException:
            failure = traceback.format_exc()
        finally:
            sender.send(failure)

    process = context.Process(target=child)
    process.start()
    sender.close()
    failure = receiver.recv()
    process.join()
    if failure:
        pytest.fail(failure, pytrace=False)
