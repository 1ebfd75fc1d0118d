"""Walk a model block by block, so that each block gets the outputs of the pruned blocks before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from methods.contract import Compute, Job, Outcome
from methods.experts import ExpertList, fold
from methods.folder import Folder, Writer
from methods.targets import dense_weight, family_of

BATCH_TOKENS = {"cpu": 512, "cuda": 16384}
"""Tokens per forward pass of one block: enough for large matrix products, few enough for a CPU's cache."""
SAMPLE_ROWS = 256
"""Input rows kept per linear, to estimate its reconstruction error."""

Accumulate = Callable[[Tensor, Tensor | None], Tensor]
"""accumulate(x, total) -> the statistic with the inputs x, float [tokens, in], added. total is None at first."""


class Visit(NamedTuple):
    """One target: its weight [out, in], to be changed in place, and the statistic of its inputs.

    Linears with the same input share one statistic, the same object.
    """

    name: str
    weight: Tensor
    stat: Tensor

    def prune(self, keep: Tensor) -> None:
        """Set the weights that are false in `keep` [out, in] to zero. (A product with the mask could leave -0.0.)"""
        self.weight.masked_fill_(~keep, 0)


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
    ) -> None:
        """batch: sequences per forward pass. By default as many as BATCH_TOKENS allows.

        all_experts: every expert sees all tokens while statistics are collected.
        """
        self._storage = torch.device("cpu") if compute.stream else compute.device
        self._device = compute.device
        self._all_experts = all_experts
        self.tokens = tokens.numel()
        self.reached: dict[str, int] = {}
        """How many tokens came to each linear of an expert."""
        self.few: list[str] = []
        """Of these, where they were fewer than the linear's inputs."""
        self.hidden: list[Tensor] = []
        self._calls: dict[int, list[tuple[tuple[Any, ...], dict[str, Any]]]] = {}
        originals = list(blocks)
        for part in tokens.split(batch or max(1, BATCH_TOKENS[self._device.type] // tokens.shape[1])):
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
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
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
        joined = {k: torch.cat(rows) for k, rows in samples.items()}
        found, sampled = {n: stats[k] for n, k in source.items()}, {n: joined[k] for n, k in source.items()}
        for name, count in reached.items():
            width = dense_weight(linears[name]).shape[1]
            if count < width:
                found[name] = accumulate(torch.eye(width, device=self._device), None)
                sampled.pop(name, None)
                self.few.append(name)
        self.reached |= reached
        return found, sampled


class Walk:
    """Iterate over a job's targets, block by block. One-shot methods change weights in this loop.

        walk = Walk(model, job, accumulate)
        for visit in walk: visit.prune(...)
        return walk.outcome()

    With `accumulate`, block i runs twice on the calibration tokens: before pruning, to collect the statistic, and
    after, to get the inputs of block i+1. Without it nothing runs. Blocks on the meta device are read from the job's
    source and written to its workdir, so that a model larger than memory works the same way.
    """

    def __init__(
        self,
        model: nn.Module,
        job: Job,
        accumulate: Accumulate | None = None,
        *,
        batch: int | None = None,
        sample_rows: int = SAMPLE_ROWS,
    ) -> None:
        """batch: calibration sequences per forward pass, by default as many as BATCH_TOKENS allows."""
        self.model, self.job, self.accumulate = model, job, accumulate
        self._batch, self._sample_rows = batch, sample_rows
        self.errors: dict[str, float] = {}
        """Per target, ||X (W' - W)^T||^2 / ||X W^T||^2 on sampled inputs X. Without calibration, X is white noise."""
        self._family = family_of(model.config.to_dict())  # type: ignore[operator, union-attr]
        self._sampled = 0
        self._writer: Writer | None = None
        self._source: Folder | None = None
        self._activations: Activations | None = None

    @torch.no_grad()
    def __iter__(self) -> Iterator[Visit]:
        job, path = self.job, self._family.blocks
        blocks = self.model.get_submodule(path)
        assert isinstance(blocks, nn.ModuleList)
        activations = None
        if self.accumulate:
            if job.calibration is None:
                raise RuntimeError("this walk collects a statistic: the method's `needs` must name CALIBRATION")
            activations = Activations(self.model, blocks, job.calibration, job.compute, self._batch, job.all_experts)
            self._activations = activations
        for i, block in enumerate(blocks):
            streamed = self._load(block, f"{path}.{i}")
            linears = {t: self.model.get_submodule(t) for t in job.targets if self._family.block_of(t) == i}
            stats: dict[str, Tensor] = {}
            samples: dict[str, Tensor] = {}
            if activations and self.accumulate and linears:
                stats, samples = activations.observe(i, block, linears, self.accumulate, self._sample_rows)
            for name, module in linears.items():
                weight = dense_weight(module)
                before = weight.clone()
                yield Visit(name, weight, stats.get(name, weight.new_empty(0)))
                self._sampled = max(self._sampled, len(samples[name]) if name in samples else 0)
                self.errors[name] = _relative_error(before, weight, samples.get(name))
            if activations and i + 1 < len(blocks):  # the output of the last block is not used
                activations.advance(i, block)
            if streamed:
                self._store(block, f"{path}.{i}")
            job.progress.advance(i + 1, len(blocks))

    def outcome(self, **notes: Any) -> Outcome:
        """The pruned model, the method's notes, and the reconstruction error of each layer."""
        notes |= {
            "reconstruction_error": {k: float(f"{v:.6g}") for k, v in self.errors.items()},
            "reconstruction_inputs": f"{self._sampled} calibration tokens" if self._sampled else "white noise",
        }
        if self._activations and self._activations.reached:
            notes |= {"experts": self._expert_notes(self._activations)}
        if self._writer is None:
            return Outcome(self.model, notes=notes)
        for name, tensor in self.model.state_dict().items():
            if self._family.block_of(name) is None and not tensor.is_meta and self._source and name in self._source:
                self._writer.add(name, tensor)
        return Outcome(self._writer.close(), notes=notes)

    def _expert_notes(self, activations: Activations) -> dict[str, Any]:
        """Tokens of each expert; its linears that were scored by their weights alone, since they saw too few."""
        tokens = {name.rpartition(".")[0]: count for name, count in activations.reached.items()}
        return {"tokens": tokens, "all_tokens": self.job.all_experts, "by_weights_alone": activations.few}

    def _load(self, block: nn.Module, prefix: str) -> bool:
        if not any(p.is_meta for p in block.parameters()):
            return False
        self._source = self._source or Folder(self.job.source)
        self._writer = self._writer or Writer(self.job.workdir / "streamed")
        read_block(block, prefix, self._source, self.job.compute)
        return True

    def _store(self, block: nn.Module, prefix: str) -> None:
        assert self._writer is not None
        tensors = {f"{prefix}.{name}": tensor for name, tensor in block.state_dict().items()}
        for name, tensor in fold(tensors, tensors.__getitem__, self._family):
            self._writer.add(name, tensor)
        block.to("meta")


def read_block(block: nn.Module, prefix: str, source: Folder, compute: Compute) -> None:
    """Read a block's parameters from disk to the device."""
    for name, _ in list(block.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        value = source.tensor(f"{prefix}.{name}").to(compute.device, compute.dtype)
        setattr(block.get_submodule(owner), leaf, nn.Parameter(value, requires_grad=False))


def _relative_error(before: Tensor, after: Tensor, x: Tensor | None) -> float:
    change, scale = after.float() - before.float(), before.float()
    if x is not None:
        change, scale = x @ change.T, x @ scale.T
    return float(change.square().sum() / scale.square().sum().clamp(min=torch.finfo(torch.float32).tiny))
