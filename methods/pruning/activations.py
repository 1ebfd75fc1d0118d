"""The calibration tokens' activations between blocks, and what a block's linears are given."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from methods.contract import Compute
from methods.experts import ExpertList
from methods.pruning.sharing import Sharing
from methods.targets import dense_weight

BATCH_TOKENS = {"cpu": 512, "cuda": 16384}
"""Tokens per forward pass of one block: enough for large matrix products, few enough for a CPU's cache."""

Accumulate = Callable[[Tensor, Tensor | None], Tensor]
"""accumulate(x, total) -> the statistic with the inputs x, float [tokens, in], added. total is None at first. Where several
processes share a calibration it must be a sum over tokens: theirs are added up."""


LIBRARY_BYTES = 500 * 10**6
"""About what a process takes that has imported torch and transformers, before it has a model."""


class StatesOnDisk:
    """A list of tensors in a file that nobody else sees and that goes with this process. Only one is in memory at a time.

    A tensor that takes another's place has its dtype and shape.
    """

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  open as long as this list
        self._entries: list[tuple[int, torch.dtype, torch.Size]] = []
        self._end = 0

    def __len__(self) -> int:
        return len(self._entries)

    def append(self, tensor: Tensor) -> None:
        self._entries.append((self._end, tensor.dtype, tensor.shape))
        self._end += tensor.nbytes
        self[len(self) - 1] = tensor

    def __setitem__(self, index: int, tensor: Tensor) -> None:
        start, dtype, shape = self._entries[index]
        assert (tensor.dtype, tensor.shape) == (dtype, shape)
        self._file.seek(start)
        self._file.write(_bytes_of(tensor.contiguous()))

    def __getitem__(self, index: int) -> Tensor:
        start, dtype, shape = self._entries[index]
        tensor = torch.empty(shape, dtype=dtype)
        self._file.seek(start)
        if self._file.readinto(_bytes_of(tensor)) != tensor.nbytes:
            raise OSError("activations on disk ended early")
        return tensor

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))


def _bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    return tensor.view(-1).view(torch.uint8).numpy().data


class _Stop(Exception):
    """Raised inside a forward pass to end it early."""


class Recorder(nn.Module):
    """Replaces a block: records the arguments of the call and returns the input."""

    def __init__(
        self, block: nn.Module, calls: list[tuple[Tensor, tuple[Any, ...], dict[str, Any]]], last: bool
    ) -> None:
        super().__init__()
        self.attention_type = getattr(block, "attention_type", None)  # some models pick the mask by it
        self._calls, self._last = calls, last

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self._calls.append((hidden, args, kwargs))
        if self._last:
            raise _Stop
        return hidden


class Observed(NamedTuple):
    """What linears of a block were given. Those with the same input share one tensor, the same object."""

    stats: dict[str, Tensor]
    samples: dict[str, Tensor]
    """Input rows, float32 [some, in]."""
    owners: dict[str, int]
    """Of every linear, the process that changes it. The others have neither its statistic nor its sample."""


class _Inputs(NamedTuple):
    """The same as this process has seen it, by the first linear with an input."""

    first: dict[str, str]
    stats: dict[str, Tensor]
    samples: dict[str, Tensor]
    reached: dict[str, int]
    """Tokens of each linear of an expert."""


class Activations:
    """The inputs of the next block, [batch, seqlen, hidden] per batch, and the arguments to call any block with them.

    Masks and position embeddings depend on the block and the shape of the batch alone, since calibration sequences have
    one length and no padding. So they are recorded once per shape.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: nn.ModuleList,
        tokens: Tensor,
        compute: Compute,
        batch: int | None = None,
        all_experts: bool = False,
        sharing: Sharing | None = None,
    ) -> None:
        """batch: sequences per forward pass. By default as many as BATCH_TOKENS allows.

        all_experts: every expert sees all tokens while statistics are collected.
        sharing: the processes that share the tokens; of these, this one runs its part.
        """
        self._device = compute.device
        self._all_experts = all_experts
        self._sharing = sharing or Sharing(compute.device)
        self.tokens = tokens.numel()
        """Of all processes."""
        self.sampled = 0
        """Rows of the largest sample."""
        self.reached: dict[str, int] = {}
        """How many tokens came to each linear of an expert."""
        self.few: list[str] = []
        """Of these, where they were fewer than the linear's inputs."""
        parts = self._sharing.batches(tokens, batch or max(1, BATCH_TOKENS[self._device.type] // tokens.shape[1]))
        width = model.get_input_embeddings().weight.shape[1]  # type: ignore[operator]
        on_disk = compute.scratch is not None and not _fits(
            sum(part.numel() for part in parts) * width * compute.dtype.itemsize, model, blocks, compute
        )
        self.hidden: list[Tensor] | StatesOnDisk = StatesOnDisk(compute.scratch) if on_disk else []  # type: ignore[arg-type]
        self._storage = torch.device("cpu") if compute.stream or on_disk else compute.device
        self._calls: dict[int, list[tuple[tuple[Any, ...], dict[str, Any]]]] = {}
        originals = list(blocks)
        for part in parts:
            calls: list[tuple[Tensor, tuple[Any, ...], dict[str, Any]]] = []
            try:
                for i, block in enumerate(originals):
                    blocks[i] = Recorder(block, calls, last=i == len(originals) - 1)
                model(input_ids=part.to(self._device), use_cache=False)
            except _Stop:
                pass
            finally:
                for i, block in enumerate(originals):
                    blocks[i] = block
            self.hidden.append(calls[0][0].to(self._storage))
            self._calls.setdefault(len(part), [(args, kwargs) for _, args, kwargs in calls])

    def run(self, index: int, block: nn.Module, hidden: Tensor) -> Tensor:
        args, kwargs = self._calls[len(hidden)][index]
        out = block(hidden.to(self._device), *args, **kwargs)
        out = out[0] if isinstance(out, tuple) else out
        return out.to(self._storage)  # type: ignore[no-any-return]

    def advance(self, index: int, block: nn.Module) -> None:
        for j, hidden in enumerate(self.hidden):
            self.hidden[j] = self.run(index, block, hidden)

    def observe(
        self, index: int, block: nn.Module, linears: dict[str, nn.Module], accumulate: Accumulate, sample_rows: int
    ) -> Observed:
        """The statistic and a sample of input rows of each linear. A forward pass ends when all inputs are recorded.

        A linear of an expert that fewer tokens reached than it has inputs gets the statistic of white noise, and no sample:
        a score by it goes by the weights alone.
        """
        experts = [module for module in block.modules() if isinstance(module, ExpertList)]
        inside = {id(module) for layer in experts for module in layer.modules()}
        routed = {name for name, module in linears.items() if id(module) in inside}
        reached = dict.fromkeys(sorted(routed, key=list(linears).index), 0)
        stats: dict[str, Tensor] = {}
        samples: dict[str, list[Tensor]] = {}
        source: dict[str, str] = {}  # linear -> the first linear with the same input
        inputs: dict[str, Tensor] = {}  # of this batch, by first linear
        waiting: set[str] = set()
        stride = max(1, self.tokens // sample_rows)

        def make_hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
            def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
                x = args[0]
                first = next((k for k, other in inputs.items() if other is x), None)
                if first is None:
                    inputs[name] = x
                    rows = x.flatten(0, -2)
                    stats[name] = accumulate(rows.float(), stats.get(name))
                    sample = rows[::stride].to(torch.float32, copy=True)  # a view would keep all of x
                    samples.setdefault(name, []).append(sample)
                source[name] = first or name
                waiting.discard(name)
                if name in routed:
                    reached[name] += x.shape[:-1].numel()
                elif not waiting and not routed:  # which of the experts will be reached is not known
                    raise _Stop

            return hook

        hooks = [module.register_forward_pre_hook(make_hook(name)) for name, module in linears.items()]
        try:
            for layer in experts:
                layer.all_tokens = self._all_experts
            for hidden in self.hidden:
                waiting.update(linears.keys() - routed)
                inputs.clear()
                try:
                    self.run(index, block, hidden)
                except _Stop:
                    continue
                if waiting or not routed:
                    raise RuntimeError(f"the forward pass did not reach {sorted(waiting)}")
        finally:
            for layer in experts:
                layer.all_tokens = False
            for handle in hooks:
                handle.remove()
        first = {name: source.get(name, name) for name in linears}  # an expert that no token reached has no source
        joined = {name: torch.cat(rows) for name, rows in samples.items()}
        return self._pool(linears, _Inputs(first, stats, joined, reached), accumulate)

    def _pool(self, linears: dict[str, nn.Module], inputs: _Inputs, accumulate: Accumulate) -> Observed:
        """What all processes have seen together, each linear's where it is needed."""
        sharing, first = self._sharing, inputs.first
        shapes = {name: dense_weight(module).shape for name, module in linears.items()}
        every = sharing.gather([inputs.reached, {name: len(rows) for name, rows in inputs.samples.items()}])
        reached = {name: sum(tokens[name] for tokens, _ in every) for name in inputs.reached}
        few = [name for name, count in reached.items() if count < shapes[name][1]]
        owners = _owners(sharing, shapes, first, reached)
        stats: dict[str, Tensor] = {}
        samples: dict[str, Tensor] = {}
        for one in dict.fromkeys(first.values()):
            stat, rows = inputs.stats.pop(one, None), inputs.samples.pop(one, None)
            users = [name for name in linears if first[name] == one and name not in few]
            if not users:
                continue
            empty = torch.empty(0, shapes[one][1], device=self._device, dtype=torch.float32)
            counts = [sizes.get(one, 0) for _, sizes in every]
            at = {owners[name] for name in users}
            stat = sharing.add_up(accumulate(empty, None) if stat is None else stat, at)
            rows = sharing.join_rows(empty if rows is None else rows, counts, at)
            self.sampled = max(self.sampled, sum(counts))
            for name in users:
                if owners[name] == sharing.rank:
                    stats[name], samples[name] = stat, rows
        for name in few:
            if owners[name] == sharing.rank:
                stats[name] = accumulate(torch.eye(shapes[name][1], device=self._device), None)
        self.few += few
        self.reached |= reached
        return Observed(stats, samples, owners)


def _owners(
    sharing: Sharing, shapes: dict[str, torch.Size], first: dict[str, str], routed: Collection[str]
) -> dict[str, int]:
    """The process that changes each linear: one for those with the same input, whose Hessian is then factored once, and one
    for an expert. They are balanced by what SparseGPT takes: in^3 for each Hessian, and in^2 out for each linear."""
    pieces = {name: name.rpartition(".")[0] if name in routed else first[name] for name in shapes}
    costs = dict.fromkeys(pieces.values(), 0.0)
    for name, (rows, width) in shapes.items():
        costs[pieces[name]] += width**2 * (rows + width * (first[name] == name))
    by_piece = sharing.divide(costs)
    return {name: by_piece[piece] for name, piece in pieces.items()}


def _fits(states: int, model: nn.Module, blocks: nn.ModuleList, compute: Compute) -> bool:
    """Whether so many bytes of activations fit beside the model in `compute.max_bytes`: beside all of it, or where it is
    streamed two blocks and what is outside the blocks."""
    if compute.max_bytes is None:
        return True
    inside = [sum(p.numel() for p in block.parameters()) for block in blocks]
    parameters = sum(p.numel() for p in model.parameters())
    if any(p.is_meta for p in blocks.parameters()):
        parameters += min(2, len(inside)) * max(inside) - sum(inside)
    return LIBRARY_BYTES + parameters * compute.dtype.itemsize + states <= compute.max_bytes
