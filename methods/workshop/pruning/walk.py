"""Walk a model block by block, so that each block gets the outputs of the pruned blocks before
it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from methods.contract.codec import Codec, StoredWeight
from methods.contract.method import Job, Outcome
from methods.model.targets import dense_weight
from methods.workshop.pruning.holders import Part, hold
from methods.workshop.pruning.observer import Accumulate
from methods.workshop.pruning.sharing import Sharing
from methods.workshop.pruning.statistics import Statistics


class Visit(NamedTuple):
    """One target: its weight [out, in], to be changed in place, and the statistic of its inputs.

    Linears with the same input share one statistic, the same object.
    """

    name: str
    weight: Tensor
    stat: Tensor
    stored: dict[str, StoredWeight]
    """Stored weights of the walk by target."""

    def store(self, codec: Codec, parts: Mapping[str, Tensor]) -> None:
        """Set the weight to the one that a codec gives for these tensors, which are copied for the
        files.

        Raises:
            TypeError: the codec gives another shape.
        """
        weight = codec.decode(parts)
        if weight.shape != self.weight.shape:
            raise TypeError(
                f"codec {codec.name!r} decodes {self.name} to {[*weight.shape]}: its weight is "
                f"{[*self.weight.shape]}"
            )
        # A file has no tensors that share memory, such as a codebook of all linears.
        kept = {part: tensor.detach().to("cpu", copy=True) for part, tensor in parts.items()}
        self.stored[self.name] = StoredWeight(codec, kept)
        self.weight.copy_(weight)

    def prune(self, keep: Tensor) -> None:
        """Set the weights that are false in `keep` [out, in] to zero. (A product with the mask
        could leave -0.0.)

        Raises:
            TypeError: `keep` is not bool, or has another shape. A mask of one row would be used for
                all of them.
        """
        if keep.dtype != torch.bool or keep.shape != self.weight.shape:
            got, want = f"{keep.dtype} {[*keep.shape]}", f"torch.bool {[*self.weight.shape]}"
            raise TypeError(
                f"the mask of {self.name} is {got}: give {want}, for example "
                "job.pattern.keep(score)"
            )
        self.weight.masked_fill_(~keep, 0)


class Walk:
    """Iterates over a job's targets, block by block. One-shot methods change weights in this loop.

        walk = Walk(model, job, accumulate)
        for visit in walk: visit.prune(...)
        return walk.outcome()

    With `accumulate`, block i runs twice on the calibration tokens: before pruning, to collect the
    statistic, and after, to compute the inputs of block i+1. Without it no block runs. Blocks on
    the meta device are read from the job's source and written to its workdir, so a model larger
    than memory works the same way. `methods.workshop.pruning.holders` has the ways to hold a block.

    If torch.distributed is initialized, its processes share a walk with `accumulate`. Each runs
    some of the sequences and visits some of a block's targets, then gets the others, so that all
    end with the same model. Only the first process writes a streamed model.
    """

    def __init__(
        self,
        model: nn.Module,
        job: Job,
        accumulate: Accumulate | None = None,
        *,
        batch: int | None = None,
        gated: bool = False,
    ) -> None:
        """batch: calibration sequences per forward pass, by default as many as BATCH_TOKENS
        allows; gated: scale the inputs of an expert in the statistic by the router's weights."""
        self.job = job
        self.errors: dict[str, float] = {}
        """Per target, ||X (W' - W)^T||^2 / ||X W^T||^2 on sampled inputs X. Without calibration, X
        is white noise."""
        everyone = Sharing.found(job.compute.device)
        self.stored: dict[str, StoredWeight] = {}
        """Weights that visits stored, by target."""
        self._sharing = everyone if accumulate else Sharing(job.compute.device)
        output = job.workdir / "streamed" if everyone.rank == 0 else None
        self._held = hold(
            model, job.source, job.compute, output, by_expert=self._sharing.world == 1
        )
        self._statistics = None
        if accumulate:
            self._statistics = Statistics(job, accumulate, self._sharing, batch, gated)

    @torch.no_grad()
    def __iter__(self) -> Iterator[Visit]:
        job, held, statistics, tokens = self.job, self._held, self._statistics, None
        targets = {name: held.model.get_submodule(name) for name in job.targets}
        if statistics:
            if job.compute.max_bytes:
                beside = statistics.bytes_for(targets, held.family, held.by_expert)
            else:
                beside = 0
            tokens = held.start(statistics.batches, job.compute, beside=beside)
        with held:
            for i in range(len(held.blocks)):
                linears = {
                    name: module
                    for name, module in targets.items()
                    if held.family.block_of(name) == i
                }
                for part in held.parts(i, linears, tokens, statistics):
                    yield from self._visits(part)
                    del part  # its statistics, before the tokens pass on
                job.progress.advance(i + 1, len(held.blocks))

    def _visits(self, part: Part) -> Iterator[Visit]:
        """Visit the linears that this process changes, then get the others from their owners."""
        sharing, (stats, samples, owners) = self._sharing, part.inputs
        # Experts share a statistic: those of one are neighbors, so that it is factored once.
        first: dict[int, int] = {}
        for name in part.linears:
            first.setdefault(id(stats.get(name)), len(first))
        for name, module in sorted(
            part.linears.items(), key=lambda linear: first[id(stats.get(linear[0]))]
        ):
            if owners.get(name, sharing.rank) != sharing.rank:
                continue
            weight = dense_weight(module)
            before = weight.clone()
            yield Visit(name, weight, stats.get(name, weight.new_empty(0)), self.stored)
            weight.masked_fill_(weight == 0, 0)  # no -0.0, which packed formats keep as a weight
            self.errors[name] = _relative_error(before, weight, samples.get(name))
        for name, owner in owners.items():
            sharing.send_(part.linears[name].weight, owner)  # type: ignore[arg-type]
        if owners:
            sharing.exchange_(self.stored, owners)
        if self.job.compute.stream:
            for name in part.linears.keys() & self.stored.keys():
                self.stored[name] = _spill(
                    self.stored[name], self.job.workdir / f"spilled-{sharing.rank}", name
                )

    @property
    def by_weights_alone(self) -> list[str]:
        """Linears of experts that too few tokens reached: their statistic is that of white
        noise."""
        if not self._statistics:
            return []
        return self._statistics.few

    def total(self, *values: float) -> list[float]:
        """Return each value summed over the processes of the walk, each of which has seen only its
        own visits."""
        return [sum(each) for each in zip(*self._sharing.gather(values), strict=True)]

    def outcome(self, **notes: Any) -> Outcome:
        """Return the pruned model, the method's notes, and the reconstruction error of each layer.

        If processes share the walk, each gives notes about its targets as a dict by target, and the
        dicts are merged. Every other note must be the same at all processes: see `total`.
        """
        statistics = self._statistics
        sampled = statistics.sampled if statistics else 0
        notes |= {
            "reconstruction_error": {k: float(f"{v:.6g}") for k, v in self.errors.items()},
            "reconstruction_inputs": f"{sampled} calibration tokens" if sampled else "white noise",
        }
        if statistics and statistics.reached:
            reached = {name.rpartition(".")[0]: count for name, count in statistics.reached.items()}
            notes["experts"] = {
                "tokens": reached,
                "all_tokens": self.job.all_experts,
                "by_weights_alone": self.by_weights_alone,
            }
        notes = self._sharing.join_notes(notes, self.job.targets)
        return Outcome(self._held.result(), notes=notes, stored=self.stored)


def _relative_error(before: Tensor, after: Tensor, x: Tensor | None) -> float:
    change, scale = after.float() - before.float(), before.float()
    if x is not None:
        change, scale = x @ change.T, x @ scale.T
    return float(
        change.square().sum() / scale.square().sum().clamp(min=torch.finfo(torch.float32).tiny)
    )


def _spill(stored: StoredWeight, folder: Path, name: str) -> StoredWeight:
    """Move the tensors of a stored weight to a file, which is mapped into memory."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {part: tensor.contiguous() for part, tensor in stored.parts.items()}
    save_file(parts, folder / f"{name}.safetensors")
    return stored._replace(parts=load_file(folder / f"{name}.safetensors"))
