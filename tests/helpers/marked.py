"""A card that is not there: tensors on the CPU that are marked as a card's.

Their device is cuda:0 to Python. Their storage and their arithmetic are the CPU's, so numbers must
be those of the CPU. An operator that gets tensors of both devices fails, as on a card. torch's CUDA
wheel is not needed, and works too.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

CARD, CPU = torch.device("cuda:0"), torch.device("cpu")
ACROSS = {"aten.copy_.default", "aten._to_copy.default", "aten.set_.source_Tensor"} | {
    f"aten.index{name}" for name in (".Tensor", "_put_.default", "_put.default")
}
"""Operators that take tensors of two devices."""


class MixedDevices(RuntimeError):
    """Tensors of two devices met in one operator."""


class Marked(Tensor):
    """A tensor of the card."""

    @property
    def device(self) -> torch.device:
        return CARD

    @property
    def is_cuda(self) -> bool:
        return True

    is_cpu = False

    def cpu(self, *_: Any, **options: Any) -> Tensor:
        return _leave.apply(self)

    def cuda(self, *_: Any, **options: Any) -> Tensor:
        return self

    def to(self, *args: Any, **options: Any) -> Tensor:
        device, dtype, *_ = torch._C._nn._parse_to(*_without_tensors(args), **_known(options))
        if device is not None and device.type == "cpu":
            plain = self.cpu()
            return plain if dtype is None else plain.to(dtype)
        copy = {"copy": options["copy"]} if "copy" in options else {}
        return super().to(dtype or self.dtype, **copy)

    def numpy(self, *_: Any, **options: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy: use Tensor.cpu()")

    def __array__(self, *_: Any, **options: Any) -> Any:
        return self.numpy()

    def new_tensor(self, data: Any, *, dtype: Any = None, device: Any = CARD) -> Tensor:
        return torch.tensor(data, dtype=dtype or self.dtype, device=device)

    def tolist(self) -> Any:
        return unmark(self.detach()).tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        return call(func, args, kwargs or {})


def _without_tensors(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the arguments of Tensor.to with another tensor's dtype and device in its place."""
    if args and isinstance(args[0], Tensor):
        return (args[0].device, args[0].dtype)
    return args


def _known(options: dict[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in ("device", "dtype", "non_blocking") if name in options}


class _leave(torch.autograd.Function):
    """A copy on the CPU, with its gradient."""

    @staticmethod
    def forward(ctx: Any, marked: Tensor) -> Tensor:
        return unmark(marked).clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return mark(gradient)


def mark(tensor: Tensor) -> Tensor:
    with no_dispatch():
        return torch.Tensor._make_subclass(Marked, tensor.detach(), tensor.requires_grad)


def unmark(tensor: Tensor) -> Tensor:
    with no_dispatch():
        return torch.Tensor._make_subclass(Tensor, tensor.detach())


def call(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Do an operator on the CPU, and mark what is the card's."""
    # In inference mode torch does not split these into their parts before.
    if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
        with Card():
            return func.decompose(*args, **kwargs)
    tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
    marked = [isinstance(t, Marked) for t in tensors]
    device = kwargs.get("device")
    on_card = any(marked)
    if device is not None:
        device = torch.device(device)
        on_card = device.type == "cuda"
        if on_card:
            kwargs = kwargs | {"device": CPU, "pin_memory": False}
            if "pin_memory" not in {a.name for a in func._schema.arguments}:
                del kwargs["pin_memory"]
    plain = [t for t, is_marked in zip(tensors, marked, strict=True) if not is_marked and t.dim()]
    if any(marked) and plain and str(func) not in ACROSS:
        raise MixedDevices(f"{func}: {[(type(t).__name__, tuple(t.shape)) for t in tensors]}")
    if str(func) == "aten.copy_.default":
        on_card = marked[0]
    if "_pin_memory" in str(func):
        return args[0]
    with no_dispatch():
        inner = {id(t): t for t in tensors}
        made = func(*args, **kwargs)

    def wrap(value: Any) -> Any:
        if not isinstance(value, Tensor) or id(value) in inner:
            return value
        if isinstance(value, Marked) == on_card:
            return value
        return mark(value) if on_card else unmark(value)

    return tree_map(wrap, made)


class Card(TorchDispatchMode):
    """In it, whatever is made on a card is marked."""

    def __torch_dispatch__(self, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        return call(func, args, kwargs or {})


class Generator(torch.Generator):
    """A generator of any device, which draws the CPU's numbers."""

    def __new__(cls, device: Any = None) -> Generator:
        return super().__new__(cls)


ABOUT = types.SimpleNamespace(
    name="NVIDIA H100 80GB HBM3",
    total_memory=80 * 10**9,
    L2_cache_size=50 * 2**20,
    major=9,
    minor=0,
    multi_processor_count=132,
    uuid="0",
)


class Numbered(TorchFunctionMode):
    """Where a call names a card without its number, and torch would ask the driver for it."""

    def __torch_function__(self, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        args = tuple(_number(value) for value in args)
        kwargs = {name: _number(value) for name, value in (kwargs or {}).items()}
        if func is Tensor.to:
            args = (args[0], *_without_tensors(args[1:]))
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") == CARD:
            del kwargs["device"]
            return func(*args, **kwargs).to(CARD)
        return func(*args, **kwargs)


def _number(value: Any) -> Any:
    if isinstance(value, torch.device):
        return CARD if value.type == "cuda" else value
    return CARD if isinstance(value, str) and value in ("cuda", "cuda:0") else value


@contextlib.contextmanager
def card(monkeypatch: Any) -> Iterator[None]:
    """Let torch have a card of 80 GB, whose tensors are marked."""
    answers = {
        "_lazy_init": None, "is_available": True, "device_count": 1, "current_device": 0,
        "set_device": None, "synchronize": None, "empty_cache": None, "is_initialized": True,
        "get_device_name": ABOUT.name, "get_device_properties": ABOUT,
        "get_device_capability": (9, 0), "mem_get_info": (79 * 10**9, 80 * 10**9),
        "max_memory_allocated": 10**9, "memory_allocated": 10**9, "is_bf16_supported": True,
        "reset_peak_memory_stats": None, "manual_seed_all": None, "manual_seed": None,
    }  # fmt: skip
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer, **options: answer)
    monkeypatch.setattr(torch, "Generator", Generator)
    # It asks the driver for the current stream.
    check = "_accelerator_graph_capture_health_check"
    monkeypatch.setattr(torch.optim.Optimizer, check, lambda self: None, raising=False)
    monkeypatch.setattr("bench.system.devices.resolve_device", lambda name: name)
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with Numbered(), Card():
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrite)
