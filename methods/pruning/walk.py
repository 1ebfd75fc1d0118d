"""Walk a model block by block, so that each block sees what its pruned predecessors hand on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from methods.contract import Compute, Job, Outcome
from methods.folder import Folder, Writer
from methods.targets import dense_weight, family_of

BATCH_TOKENS = {"cpu": 512, "cuda": 16384}
"""Tokens per forward of one block: enough for full matrix products, few enough to stay in a CPU's cache."""
SAMPLE_ROWS = 256
"""Input rows kept per linear to estimate its reconstruction error."""

Gather = Callable[[Tensor, Tensor | None], Tensor]
"""gather(x, so_far) -> the statistic with the inputs x, float [tokens, in], added; so_far is None at first."""


class Visit(NamedTuple):
    """One target: its live weight [out, in] and its inputs' statistic. Linears with one input share one object."""

    name: str
    weight: Tensor
    stat: Tensor

    def prune(self, keep: Tensor) -> None:
        """Zero what `keep` [out, in] does not name. A product with the mask would leave -0.0 behind."""
        self.weight.masked_fill_(~keep, 0)


class _Stop(Exception):
    """Raised inside a forward once everything that was asked for has been seen."""


class Recorder(nn.Module):
    """Stands in for a block: keeps what the block would have been called with and hands its input on."""

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


class Flow:
    """The activations between two blocks, [batch, seqlen, hidden] each, and how to call any block on them.

    Masks and position embeddings depend on the block and on the batch's shape alone, since calibration sequences have
    one length and no padding; so they are recorded once per shape.
    """

    def __init__(
        self, model: nn.Module, blocks: nn.ModuleList, tokens: Tensor, compute: Compute, batch: int | None = None
    ) -> None:
        """batch: sequences per forward; as many as the device likes by default."""
        self._hold = torch.device("cpu") if compute.stream else compute.device
        self._device = compute.device
        self.tokens = tokens.numel()
        self.hidden: list[Tensor] = []
        self._calls: dict[int, list[tuple[tuple[Any, ...], dict[str, Any]]]] = {}
        real = list(blocks)
        for part in tokens.split(batch or max(1, BATCH_TOKENS[self._device.type] // tokens.shape[1])):
            calls: list[tuple[Tensor, tuple[Any, ...], dict[str, Any]]] = []
            try:
                for i, block in enumerate(real):
                    blocks[i] = Recorder(block, calls, last=i == len(real) - 1)
                model(input_ids=part.to(self._device), use_cache=False)
            except _Stop:
                pass
            finally:
                for i, block in enumerate(real):
                    blocks[i] = block
            self.hidden.append(calls[0][0].to(self._hold))
            self._calls.setdefault(len(part), [(args, kwargs) for _, args, kwargs in calls])

    def run(self, index: int, block: nn.Module, hidden: Tensor) -> Tensor:
        args, kwargs = self._calls[len(hidden)][index]
        out = block(hidden.to(self._device), *args, **kwargs)
        out = out[0] if isinstance(out, tuple) else out
        return out.to(self._hold)  # type: ignore[no-any-return]

    def advance(self, index: int, block: nn.Module) -> None:
        for j, hidden in enumerate(self.hidden):
            self.hidden[j] = self.run(index, block, hidden)

    def observe(
        self, index: int, block: nn.Module, linears: dict[str, nn.Module], gather: Gather
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Each linear's statistic and sample of input rows. Each forward ends once the last linear's input is known."""
        stats: dict[str, Tensor] = {}
        samples: dict[str, list[Tensor]] = {}
        leader: dict[str, str] = {}
        inputs: dict[str, Tensor] = {}  # of this batch, by leader
        waiting: set[str] = set()
        stride = max(1, self.tokens // SAMPLE_ROWS)

        def listen(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
            def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
                x = args[0]
                first = next((k for k, seen in inputs.items() if seen is x), None)
                if first is None:
                    inputs[name] = x
                    rows = x.flatten(0, -2)
                    stats[name] = gather(rows.float(), stats.get(name))
                    sample = rows[::stride].to(torch.float32, copy=True)  # a view would keep all of x
                    samples.setdefault(name, []).append(sample)
                leader[name] = first or name
                waiting.discard(name)
                if not waiting:
                    raise _Stop

            return hook

        hooks = [module.register_forward_pre_hook(listen(name)) for name, module in linears.items()]
        try:
            for hidden in self.hidden:
                waiting.update(linears)
                inputs.clear()
                try:
                    self.run(index, block, hidden)
                except _Stop:
                    continue
                raise RuntimeError(f"the forward never reached {sorted(waiting)}")
        finally:
            for handle in hooks:
                handle.remove()
        joined = {k: torch.cat(rows) for k, rows in samples.items()}
        return {n: stats[k] for n, k in leader.items()}, {n: joined[k] for n, k in leader.items()}


class Walk:
    """Iterate over a job's targets, block by block; the way for a one-shot method to touch weights.

        walk = Walk(model, job, gather)
        for visit in walk: visit.prune(...)
        return walk.outcome()

    With a `gather`, block i is run on the calibration tokens once as it is, to collect the statistic, and once pruned,
    to feed block i+1. Without one nothing is run. Blocks that are on the meta device are read from the job's source
    and written to its workdir, so a model larger than memory takes the same path.
    """

    def __init__(self, model: nn.Module, job: Job, gather: Gather | None = None) -> None:
        self.model, self.job, self.gather = model, job, gather
        self.errors: dict[str, float] = {}
        """Per target, ||X (W' - W)^T||^2 / ||X W^T||^2 on sampled inputs X; with no calibration, X is white noise."""
        self._family = family_of(model.config.to_dict())  # type: ignore[operator, union-attr]
        self._sampled = 0
        self._writer: Writer | None = None
        self._source: Folder | None = None

    @torch.no_grad()
    def __iter__(self) -> Iterator[Visit]:
        job, path = self.job, self._family.blocks
        blocks = self.model.get_submodule(path)
        assert isinstance(blocks, nn.ModuleList)
        flow = None
        if self.gather:
            if job.calibration is None:
                raise RuntimeError("this walk gathers a statistic, so the method's `needs` must name CALIBRATION")
            flow = Flow(self.model, blocks, job.calibration, job.compute)
        for i, block in enumerate(blocks):
            streamed = self._bring(block, f"{path}.{i}")
            linears = {t: self.model.get_submodule(t) for t in job.targets if self._family.block_of(t) == i}
            stats: dict[str, Tensor] = {}
            samples: dict[str, Tensor] = {}
            if flow and self.gather and linears:
                stats, samples = flow.observe(i, block, linears, self.gather)
            for name, module in linears.items():
                weight = dense_weight(module)
                before = weight.clone()
                yield Visit(name, weight, stats.get(name, weight.new_empty(0)))
                self._sampled = len(samples[name]) if name in samples else 0
                self.errors[name] = _relative_error(before, weight, samples.get(name))
            if flow and i + 1 < len(blocks):  # nobody reads the last block's output
                flow.advance(i, block)
            if streamed:
                self._put_back(block, f"{path}.{i}")
            job.progress.advance(i + 1, len(blocks))

    def outcome(self, **notes: Any) -> Outcome:
        """The pruned model with the method's notes and each layer's reconstruction error."""
        notes |= {
            "reconstruction_error": {k: float(f"{v:.6g}") for k, v in self.errors.items()},
            "reconstruction_inputs": f"{self._sampled} calibration tokens" if self._sampled else "white noise",
        }
        if self._writer is None:
            return Outcome(self.model, notes=notes)
        for name, tensor in self.model.state_dict().items():
            if self._family.block_of(name) is None and not tensor.is_meta and self._source and name in self._source:
                self._writer.add(name, tensor)
        return Outcome(self._writer.close(), notes=notes)

    def _bring(self, block: nn.Module, prefix: str) -> bool:
        if not any(p.is_meta for p in block.parameters()):
            return False
        self._source = self._source or Folder(self.job.source)
        self._writer = self._writer or Writer(self.job.workdir / "streamed")
        read_block(block, prefix, self._source, self.job.compute)
        return True

    def _put_back(self, block: nn.Module, prefix: str) -> None:
        assert self._writer is not None
        for name, tensor in block.state_dict().items():
            self._writer.add(f"{prefix}.{name}", tensor)
        block.to("meta")


def read_block(block: nn.Module, prefix: str, source: Folder, compute: Compute) -> None:
    """Bring a block's parameters from disk to the device."""
    for name, _ in list(block.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        value = source.tensor(f"{prefix}.{name}").to(compute.device, compute.dtype)
        setattr(block.get_submodule(owner), leaf, nn.Parameter(value, requires_grad=False))


def _relative_error(before: Tensor, after: Tensor, x: Tensor | None) -> float:
    change, scale = after.float() - before.float(), before.float()
    if x is not None:
        change, scale = x @ change.T, x @ scale.T
    return float(change.square().sum() / scale.square().sum().clamp(min=torch.finfo(torch.float32).tiny))
