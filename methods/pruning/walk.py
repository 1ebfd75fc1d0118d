"""Walk a model block by block, so that each block gets the outputs of the pruned blocks before it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from methods.contract import Job, Outcome
from methods.experts import fold
from methods.folder import Folder, Writer
from methods.pruning.activations import Accumulate, Activations
from methods.pruning.block_reader import BlockReader, release
from methods.pruning.sharing import Sharing
from methods.targets import dense_weight, family_of

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
    source and written to its workdir, so that a model larger than memory works the same way.

    Where torch.distributed is initialized all its processes share a walk with `accumulate`: each runs some of the sequences,
    and has some of a block's targets to visit. Then it gets the other targets from the others, so that all end with the same
    model. Of a streamed model the first process has the folder.
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
        self._is_shared = accumulate is not None and self._sharing.world > 1
        self._writer: Writer | None = None
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
            activations = Activations(
                self.model, blocks, job.calibration, job.compute, self._batch, job.all_experts, self._sharing
            )
            self._activations = activations
        with BlockReader(blocks, path, job.source, job.compute) as reader:
            for i, block in enumerate(blocks):
                is_streamed = reader.load(i)
                linears = {t: self.model.get_submodule(t) for t in job.targets if self._family.block_of(t) == i}
                yield from self._visit(i, block, linears)
                if activations and i + 1 < len(blocks):  # the output of the last block is not used
                    activations.advance(i, block)
                if is_streamed:
                    self._store(block, f"{path}.{i}")
                job.progress.advance(i + 1, len(blocks))

    def _visit(self, index: int, block: nn.Module, linears: dict[str, nn.Module]) -> Iterator[Visit]:
        if self._activations and self.accumulate and linears:
            stats, samples, owners = self._activations.observe(
                index, block, linears, self.accumulate, self._sample_rows
            )
        else:
            stats, samples, owners = {}, {}, dict.fromkeys(linears, self._sharing.rank)
        for name, module in linears.items():
            if owners[name] != self._sharing.rank:
                continue
            weight = dense_weight(module)
            before = weight.clone()
            yield Visit(name, weight, stats.get(name, weight.new_empty(0)))
            self.errors[name] = _relative_error(before, weight, samples.get(name))
        if self._is_shared:
            for name, module in linears.items():
                self._sharing.send_(module.weight, owners[name])  # type: ignore[arg-type]

    def total(self, *values: float) -> list[float]:
        """Each value summed over the processes that share the walk: a method has seen only its own visits."""
        return [sum(each) for each in zip(*self._sharing.gather(values), strict=True)] if self._is_shared else [*values]

    def outcome(self, **notes: Any) -> Outcome:
        """The pruned model, the method's notes, and the reconstruction error of each layer.

        Of several processes each gives the notes of its own targets, as a dict by target, and they are joined. Any other
        note must be the same for all: see `total`.
        """
        sampled = self._activations.sampled if self._activations else 0
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
        """Tokens of each expert; its linears that were scored by their weights alone, since they saw too few."""
        tokens = {name.rpartition(".")[0]: count for name, count in activations.reached.items()}
        return {"tokens": tokens, "all_tokens": self.job.all_experts, "by_weights_alone": activations.few}

    def _store(self, block: nn.Module, prefix: str) -> None:
        if self._sharing.rank > 0:
            release(block)
            return
        self._writer = self._writer or Writer(self.job.workdir / "streamed", STREAMED_SHARD_BYTES)
        tensors = {f"{prefix}.{name}": tensor for name, tensor in block.state_dict().items()}
        for name, tensor in fold(tensors, tensors.__getitem__, self._family):
            self._writer.add(name, tensor)
        release(block)


def _relative_error(before: Tensor, after: Tensor, x: Tensor | None) -> float:
    change, scale = after.float() - before.float(), before.float()
    if x is not None:
        change, scale = x @ change.T, x @ scale.T
    return float(change.square().sum() / scale.square().sum().clamp(min=torch.finfo(torch.float32).tiny))
