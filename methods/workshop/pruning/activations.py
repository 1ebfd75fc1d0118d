"""The activations of all calibration tokens between two blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from methods.contract.method import Compute
from methods.workshop.pruning.observer import Stop
from methods.workshop.pruning.states import States, StatesInMemory, StatesOnDisk

BATCH_TOKENS = {"cpu": 512, "cuda": 16384}
"""Tokens per forward pass of one block: enough for large matrix products, few enough for a CPU's
cache."""


def batch_of(tokens: Tensor, device: torch.device) -> int:
    """Return the number of sequences per forward pass that BATCH_TOKENS allows. tokens: [sequences,
    seqlen]."""
    return max(1, BATCH_TOKENS[device.type] // tokens.shape[1])


def require_finite(values: Tensor, what: str) -> None:
    """Raise FloatingPointError if one of these values is not finite. what: words for them."""
    if not bool(values.isfinite().all()):
        raise FloatingPointError(f"{what} are not finite: activations overflowed")


Call = tuple[Tensor, tuple[Any, ...], dict[str, Any]]
"""First argument of a call, and the others."""


class Recorder(nn.Module):
    """A stand-in for a module. Records the arguments of a call and returns the first, or ends the
    forward pass if it is `last`."""

    def __init__(self, block: nn.Module, calls: list[Call], last: bool) -> None:
        super().__init__()
        # Some models choose the mask by it.
        self.attention_type = getattr(block, "attention_type", None)
        self._calls, self._last = calls, last

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self._calls.append((hidden, args, kwargs))
        if self._last:
            raise Stop
        return hidden


class Replay(nn.Module):
    """A stand-in for a module. Returns `value`, or its input if that is None."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        # Some models choose the mask by it.
        self.attention_type = getattr(block, "attention_type", None)
        self.value: Tensor | None = None

    def forward(self, hidden: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        return hidden if self.value is None else self.value


@contextmanager
def replaced(root: nn.Module, stand_ins: Mapping[str, nn.Module]) -> Iterator[None]:
    """Put stand-ins in the places of modules, by their names in `root`, until the end of the
    context."""
    originals = {name: root.get_submodule(name) for name in stand_ins}
    try:
        for name, module in stand_ins.items():
            root.set_submodule(name, module)
        yield
    finally:
        for name, module in originals.items():
            root.set_submodule(name, module)


@contextmanager
def watched(
    root: nn.Module, names: Iterable[str], see: Callable[[str, Tensor], object]
) -> Iterator[None]:
    """Call `see` with the name and the input of each of these modules before it runs, until the end
    of the context."""
    with ExitStack() as stack:
        for name in names:

            def hook(_module: nn.Module, args: tuple[Tensor, ...], name: str = name) -> None:
                see(name, args[0])

            stack.enter_context(root.get_submodule(name).register_forward_pre_hook(hook))
        yield


class Activations:
    """The inputs of the next block, [batch, seqlen, hidden] per batch, and the arguments to call
    any block with them.

    Masks and position embeddings depend only on the block and the shape of the batch, because
    calibration sequences have one length and no padding. So they are recorded once per shape.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: nn.ModuleList,
        batches: Sequence[Tensor],
        compute: Compute,
        scratch: Path | None = None,
        last: bool = False,
    ) -> None:
        """scratch: folder for activations on disk, None for memory; last: also compute the output
        of the last block."""
        self.device, self._scratch = compute.device, scratch
        self.hidden: States = self.make_states()
        self._storage = torch.device("cpu") if compute.stream or scratch else compute.device
        self._calls: dict[int, list[tuple[tuple[Any, ...], dict[str, Any]]]] = {}
        self._end = len(blocks) if last else len(blocks) - 1
        for part in batches:
            calls: list[Call] = []
            recorders = {
                f"{i}": Recorder(block, calls, last=i == len(blocks) - 1)
                for i, block in enumerate(blocks)
            }
            with replaced(blocks, recorders), suppress(Stop):
                model(input_ids=part.to(self.device), use_cache=False)
            self.hidden.append(calls[0][0].to(self._storage))
            self._calls.setdefault(len(part), [(args, kwargs) for _, args, kwargs in calls])

    def make_states(self) -> States:
        """Return an empty list for activations of all tokens, in memory or on disk."""
        if self._scratch:
            return StatesOnDisk(self._scratch)
        return StatesInMemory()

    def needs_output_of(self, index: int) -> bool:
        """Return whether a later step uses the output of a block."""
        return index < self._end

    def run(self, index: int, block: nn.Module, hidden: Tensor) -> Tensor:
        """Return the output of a block, or of a stand-in that is called like it, for one batch of
        inputs."""
        args, kwargs = self._calls[len(hidden)][index]
        out = block(hidden.to(self.device), *args, **kwargs)
        if isinstance(out, tuple):
            out = out[0]
        return out.to(self._storage)  # type: ignore[no-any-return]

    def advance(self, index: int, block: nn.Module) -> None:
        """Replace the inputs of a block by its outputs."""
        self.replace(self.run(index, block, hidden) for hidden in self.hidden)

    def replace(self, hidden: Iterable[Tensor]) -> None:
        """Set the activations, batch by batch."""
        for j, batch in enumerate(hidden):
            require_finite(batch, "the outputs of a block")
            self.hidden[j] = batch
