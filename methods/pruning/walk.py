"""Walk a model block by block, so that each block gets the outputs of the pruned blocks before it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from methods.contract import Job, Outcome
from methods.experts import Expert, ExpertList, experts_of, fold, stacked_as
from methods.folder import Folder, Writer
from methods.pruning.activations import Activations, Observed
from methods.pruning.block_reader import BlockReader, brings_experts, release
from methods.pruning.expert_pass import ExpertPass
from methods.pruning.observer import Accumulate, Observer
from methods.pruning.sharing import Sharing
from methods.stacks import Stacks
from methods.targets import dense_weight, family_of, input_widths

SAMPLE_ROWS = 256
"""Input rows kept per linear, to estimate its reconstruction error."""
STREAMED_SHARD_BYTES = 2**26
"""A streamed model is written in shards of one block, or of several small ones: a shard is in memory until it is whole."""


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


class Walk:
    """Iterate over a job's targets, block by block. One-shot methods change weights in this loop.

        walk = Walk(model, job, accumulate)
        for visit in walk: visit.prune(...)
        return walk.outcome()

    With `accumulate`, block i runs twice on the calibration tokens: before pruning, to collect the statistic, and
    after, to get the inputs of block i+1. Without it nothing runs. Blocks on the meta device are read from the job's
    source and written to its workdir, so that a model larger than memory works the same way: the experts of a mixture one
    by one, so their statistic is collected when they come.

    Where torch.distributed is initialized all its processes share a walk with `accumulate`: each runs some of the sequences,
    and has some of a block's targets to visit. Then it gets the other targets from the others, so that all end with the same
    model. Of a streamed model the first process has the folder; each has a block at a time, with all experts.
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
        self._sharing = Sharing.found(job.compute.device)
        self._sampled = 0
        self._is_shared = accumulate is not None and self._sharing.world > 1
        self._writer: Writer | None = None
        self._activations: Activations | None = None

    @torch.no_grad()
    def __iter__(self) -> Iterator[Visit]:
        job, path = self.job, self._family.blocks
        blocks = self.model.get_submodule(path)
        assert isinstance(blocks, nn.ModuleList)
        by_expert = not self._is_shared and brings_experts(blocks)
        activations = None
        if self.accumulate:
            if job.calibration is None:
                raise RuntimeError("this walk collects a statistic: the method's `needs` must name CALIBRATION")
            activations = Activations(
                self.model,
                blocks,
                job.calibration,
                job.compute,
                self._batch,
                job.all_experts,
                by_expert=by_expert,
                sharing=self._sharing,
                beside=self._statistic_bytes(by_expert) if job.compute.max_bytes else 0,
            )
            self._activations = activations
        with BlockReader(blocks, path, job.source, job.compute, by_expert=by_expert) as reader:
            for i, block in enumerate(blocks):
                is_streamed = reader.load(i)
                linears = {t: self.model.get_submodule(t) for t in job.targets if self._family.block_of(t) == i}
                goes_on = i + 1 < len(blocks)  # the output of the last block is not used
                if reader.has_experts(i):
                    yield from self._walk_experts(i, block, linears, reader.experts(i), goes_on)
                else:
                    yield from self._visits(linears, *self._observe(i, block, linears))
                    if activations and goes_on:
                        activations.advance(i, block)
                if is_streamed:
                    self._store(block, f"{path}.{i}")
                job.progress.advance(i + 1, len(blocks))

    def _statistic_bytes(self, by_expert: bool) -> int:
        """Of what is there at a time: a statistic of each input, and two more of the largest one's size, to factor it."""
        assert self.accumulate
        widths = {t: dense_weight(self.model.get_submodule(t)).shape[1] for t in self.job.targets}
        sizes = {w: self.accumulate(torch.empty(0, w), None).nbytes for w in set(widths.values())}
        units = input_widths(widths, self._family, by_expert)
        return max(sum(sizes[w] for w in unit) + 2 * max(sizes[w] for w in unit) for unit in units)

    def _walk_experts(
        self,
        index: int,
        block: nn.Module,
        linears: dict[str, nn.Module],
        experts: Iterator[tuple[int, Expert]],
        goes_on: bool,
    ) -> Iterator[Visit]:
        """A block whose experts are brought one by one, each once: it is measured, pruned, run and written.

        What is before the experts is measured, and pruned, first; what they are given is kept from before and after that.
        """
        found = experts_of(block)
        assert found
        prefix = f"{self._family.blocks}.{index}.{found[0]}"
        inner = {name: module for name, module in linears.items() if name.startswith(f"{prefix}.")}
        outer = {name: module for name, module in linears.items() if name not in inner}
        flow, accumulate = self._activations, self.accumulate
        given = None
        if flow and accumulate and inner:
            with Observer(outer, outer, accumulate, flow.stride(self._sample_rows), ends=False) as observer:
                given = ExpertPass(flow, index, block, observer)
            yield from self._visits(outer, observer.statistics(), observer.samples())
            del observer  # its statistics
        else:
            yield from self._visits(outer, *self._observe(index, block, outer))
        following = ExpertPass(flow, index, block) if flow and goes_on else None
        with self._stacks(prefix, found[1]) as stacks:
            for number, expert in experts:
                mine = {n: module for n, module in inner.items() if n.startswith(f"{prefix}.{number}.")}
                if given and accumulate and mine:
                    yield from self._visits(mine, *given.observe(number, expert, mine, accumulate, self._sample_rows))
                else:
                    yield from self._visits(mine, {}, {})
                if following:
                    following.run(number, expert)
                self._store_expert(stacks, f"{prefix}.{number}.", expert)
        del given
        if following:
            following.finish()

    def _stacks(self, prefix: str, experts: ExpertList) -> Stacks:
        """The file for the experts of a block. prefix: their name in the model."""
        shapes = {}
        for name, tensor in experts[0].state_dict().items():
            stacked = stacked_as(f"{prefix}.0.{name}", self._family)
            assert stacked
            shapes[stacked.name] = (len(experts), *stacked.entry(tensor).shape)
        return self._output().add_stacks(shapes, self.job.compute.dtype)

    def _store_expert(self, stacks: Stacks, prefix: str, expert: Expert) -> None:
        for name, tensor in expert.state_dict().items():
            stacked = stacked_as(prefix + name, self._family)
            assert stacked
            stacks.write(stacked.name, stacked.number, stacked.entry(tensor))

    def _observe(self, index: int, block: nn.Module, linears: dict[str, nn.Module]) -> Observed:
        if self._activations and self.accumulate and linears:
            return self._activations.observe(index, block, linears, self.accumulate, self._sample_rows)
        return Observed({}, {}, {})

    def _visits(
        self,
        linears: dict[str, nn.Module],
        stats: dict[str, Tensor],
        samples: dict[str, Tensor],
        owners: Mapping[str, int] = MappingProxyType({}),
    ) -> Iterator[Visit]:
        """Visit the linears that this process changes, and get the others from the others."""
        for name, module in linears.items():
            if owners.get(name, self._sharing.rank) != self._sharing.rank:
                continue
            weight = dense_weight(module)
            before = weight.clone()
            yield Visit(name, weight, stats.get(name, weight.new_empty(0)))
            weight.masked_fill_(weight == 0, 0)  # no -0.0, which packed formats keep as a weight
            self._sampled = max(self._sampled, len(samples[name]) if name in samples else 0)
            self.errors[name] = _relative_error(before, weight, samples.get(name))
        if self._is_shared:
            for name, module in linears.items():
                self._sharing.send_(module.weight, owners[name])  # type: ignore[arg-type]

    @property
    def by_weights_alone(self) -> list[str]:
        """Of the linears of experts measured so far, those that saw too few tokens: their statistic is that of white noise."""
        return self._activations.few if self._activations else []

    def total(self, *values: float) -> list[float]:
        """Each value summed over the processes that share the walk: a method has seen only its own visits."""
        return [sum(each) for each in zip(*self._sharing.gather(values), strict=True)] if self._is_shared else [*values]

    def outcome(self, **notes: Any) -> Outcome:
        """The pruned model, the method's notes, and the reconstruction error of each layer.

        Of several processes each gives the notes of its own targets, as a dict by target, and they are joined. Any other
        note must be the same for all: see `total`.
        """
        sampled = self._activations.sampled if self._activations and self._is_shared else self._sampled
        notes |= {
            "reconstruction_error": {k: float(f"{v:.6g}") for k, v in self.errors.items()},
            "reconstruction_inputs": f"{sampled} calibration tokens" if sampled else "white noise",
        }
        if self._activations and self._activations.reached:
            notes |= {"experts": self._expert_notes(self._activations)}
        if self._is_shared:
            notes = self._join(notes)
        if self._writer is None:
            return Outcome(self.model, notes=notes)
        source = Folder(self.job.source)
        for name, tensor in self.model.state_dict().items():
            if self._family.block_of(name) is None and not tensor.is_meta and name in source:
                self._writer.add(name, tensor)
        return Outcome(self._writer.close(), notes=notes)

    def _join(self, notes: dict[str, Any]) -> dict[str, Any]:
        every = self._sharing.gather(notes)
        joined: dict[str, Any] = {}
        for key in dict.fromkeys(key for each in every for key in each):
            given = [each[key] for each in every if key in each]
            if all(isinstance(value, dict) and value.keys() <= set(self.job.targets) for value in given):
                values = {name: value for each in given for name, value in each.items()}
                joined[key] = {name: values[name] for name in self.job.targets if name in values}
            elif len(given) == len(every) and len({json.dumps(value, sort_keys=True) for value in given}) == 1:
                joined[key] = given[0]
            else:
                raise RuntimeError(
                    f"note {key!r} differs between the processes of a walk: give it by target, or sum it with walk.total"
                )
        return joined

    def _expert_notes(self, activations: Activations) -> dict[str, Any]:
        """Tokens of each expert, and `by_weights_alone`."""
        tokens = {name.rpartition(".")[0]: count for name, count in activations.reached.items()}
        return {"tokens": tokens, "all_tokens": self.job.all_experts, "by_weights_alone": self.by_weights_alone}

    def _output(self) -> Writer:
        self._writer = self._writer or Writer(self.job.workdir / "streamed", STREAMED_SHARD_BYTES)
        return self._writer

    def _store(self, block: nn.Module, prefix: str) -> None:
        """Write a block, unless its experts are: they are back on disk. Of several processes the first one writes."""
        if self._sharing.rank > 0:
            release(block)
            return
        tensors = {f"{prefix}.{name}": tensor for name, tensor in block.state_dict().items()}
        names = [n for n, tensor in tensors.items() if not (tensor.is_meta and stacked_as(n, self._family))]
        for name, tensor in fold(names, tensors.__getitem__, self._family):
            self._output().add(name, tensor)
        release(block)


def _relative_error(before: Tensor, after: Tensor, x: Tensor | None) -> float:
    change, scale = after.float() - before.float(), before.float()
    if x is not None:
        change, scale = x @ change.T, x @ scale.T
    return float(change.square().sum() / scale.square().sum().clamp(min=torch.finfo(torch.float32).tiny))
