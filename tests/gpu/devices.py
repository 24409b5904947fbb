"""A CUDA device without a GPU, and a count of the copies between host and device."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any
from unittest.mock import patch

import torch
from lightning.fabric.utilities.device_dtype_mixin import _DeviceDtypeModuleMixin
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
WAITS = {
    aten._local_scalar_dense.default: "item",
    aten.nonzero.default: "nonzero",
    aten.masked_select.default: "masked_select",
    aten.equal.default: "equal",
    aten.bincount.default: "bincount",
    aten.repeat_interleave.Tensor: "repeat_interleave",
}
"""Operations whose result the host waits for."""
INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)


class Copies(TorchDispatchMode):
    """Counts what moves between host and device, by kind.

    Attributes:
        found: "to device" and "from device" by their copy; "waits" of these and of operations such as `item`.
    """

    def __init__(self, note: Callable[[str], None] | None = None):
        super().__init__()
        self.found: Counter[str] = Counter()
        self._note = note

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for kind in copies_of(func, args, kwargs):
            self.found[kind] += 1
            if self._note is not None:
                self._note(f"{kind}: {func}")
        return func(*args, **kwargs)

    @property
    def total(self) -> int:
        """Copies to and from the device, also those that nobody waits for."""
        return self.found["to device"] + self.found["from device"]


def copies_of(func: Any, args: Any, kwargs: Any) -> Iterator[str]:
    """Kinds of the copies that an operation makes; a copy that the host waits for also counts as "waits"."""
    if func is aten._to_copy.default or func is aten.copy_.default:
        source = args[-1] if func is aten._to_copy.default else args[1]
        target = kwargs.get("device", source.device) if func is aten._to_copy.default else args[0].device
        waits = not (kwargs.get("non_blocking") or (func is aten.copy_.default and args[2:] == (True,)))
        if source.device.type != torch.device(target).type:
            yield "from device" if source.is_cuda else "to device"
            if waits:
                yield "waits"
    elif func in WAITS and args[0].is_cuda:
        yield from ("from device", "waits")
    elif func in INDEXED and args[0].is_cuda:
        for index in args[1]:
            if isinstance(index, Tensor) and not index.is_cuda:
                yield from ("to device", "waits")
            elif isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8):
                yield from ("from device", "waits")


class SeenConstructors(TorchFunctionMode):
    """Lets dispatch modes see the copy in `torch.tensor(data, device="cuda")`; `fake` GRUs, which cuDNN computes."""

    def __init__(self, fake: bool = False):
        super().__init__()
        self.fake = fake

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return function(*args, **kwargs).to(device)
        if self.fake and function is torch._VF.gru and args[0].is_cuda:
            frames, states = args[:2]
            return (frames.sum() + frames.new_zeros(*frames.shape[:2], 2 * states.shape[-1])), states
        return function(*args, **kwargs)


class FakeCuda(TorchDispatchMode):
    """Runs what concerns a CUDA device on fake tensors (shapes without values), and all else on the processor.

    A value that the host asks for is 0, and a mask chooses everything.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        if func in (aten._pin_memory.default, aten.is_pinned.default):
            return args[0] if func is aten._pin_memory.default else False
        if not any(isinstance(leaf, FakeTensor) or _is_cuda(leaf) for leaf in leaves):
            return func(*args, **kwargs)
        if func is aten._local_scalar_dense.default:
            return 0.0 if args[0].is_floating_point() else 0
        with fake_mode():
            if func is aten.nonzero.default:
                return args[0].new_zeros(args[0].numel(), args[0].dim(), dtype=torch.int64)
            if func in INDEXED:
                args = (args[0], [place for index in args[1] for place in _places(index)], *args[2:])
            return func(*tree_map(_as_fake, args), **tree_map(_as_fake, kwargs))


def _places(index: Tensor | None) -> list[Tensor | None]:
    if index is None or index.dtype is not torch.bool:
        return [index]
    return [index.new_zeros(index.numel(), dtype=torch.int64)] * index.dim()


def _as_fake(value: Any) -> Any:
    return fake_mode().from_tensor(value) if isinstance(value, Tensor) and not isinstance(value, FakeTensor) else value


def move_fake(module: nn.Module, device: torch.device) -> None:
    """`module.to(device)` for a fake device; tensors in common stay in common."""
    moved: dict[int, Tensor] = {}
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, value in tensors.items():
                if value is None:
                    continue
                if id(value) not in moved:
                    there = value.detach().to(device)
                    moved[id(value)] = nn.Parameter(there, value.requires_grad) if name in part._parameters else there
                tensors[name] = moved[id(value)]  # type: ignore[assignment]
        if isinstance(part, _DeviceDtypeModuleMixin):
            part._device = device


def _is_cuda(value: Any) -> bool:
    return isinstance(value, torch.device) and value.type == "cuda"


@cache
def fake_mode() -> FakeTensorMode:
    """The one mode of the process: tensors of two modes do not mix."""
    torch._C._ensureCUDADeviceGuardSet()
    return FakeTensorMode(allow_non_fake_inputs=True)


@contextmanager
def fake_cuda() -> Iterator[torch.device]:
    """Within, "cuda" is a fake device: everything but values, times and the backward pass is as on a GPU."""
    fake_mode()
    with ExitStack() as stack:
        for name, value in {"_lazy_init": None, "is_available": True, "device_count": 1}.items():
            stack.enter_context(patch(f"torch.cuda.{name}", return_value=value))
        stack.enter_context(patch("torch.backends.cudnn.is_acceptable", return_value=False))
        stack.enter_context(patch("torch._subclasses.fake_tensor.init_gpu_context"))
        stack.enter_context(SeenConstructors(fake=True))
        stack.enter_context(FakeCuda())
        yield torch.device("cuda", 0)
