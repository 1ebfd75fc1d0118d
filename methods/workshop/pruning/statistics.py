"""The statistic and a sample of what linears are given, over all processes that share a
calibration."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from methods.contract.errors import UserError
from methods.contract.method import Job
from methods.model.experts import ExpertList
from methods.model.families import Family
from methods.model.targets import dense_weight, input_widths
from methods.workshop.pruning.activations import Activations, batch_of, require_finite
from methods.workshop.pruning.observer import Accumulate, Observer
from methods.workshop.pruning.sharing import Sharing

SAMPLE_ROWS = 256
"""Approximate number of input rows kept per linear, to estimate its reconstruction error."""


class Observed(NamedTuple):
    """The inputs of linears. Linears with the same input share one tensor, the same object."""

    stats: Mapping[str, Tensor]
    samples: Mapping[str, Tensor]
    """Input rows, float32 [rows, in]."""
    owners: Mapping[str, int]
    """Rank that changes each linear. Other ranks have neither its statistic nor its sample."""


NOTHING = Observed({}, {}, {})


class Statistics:
    """The statistic of a walk, collected from a job's calibration tokens.

    A linear of an expert gets the statistic of white noise, and no sample, if fewer tokens reach it
    than it has inputs. A score by it then depends on the weights only.
    """

    def __init__(
        self,
        job: Job,
        accumulate: Accumulate,
        sharing: Sharing,
        batch: int | None = None,
        gated: bool = False,
    ) -> None:
        """batch: sequences per forward pass, by default as many as BATCH_TOKENS allows; gated: see
        `Observer`.

        Raises:
            UserError: gated, and all experts see all tokens, of which most have no weight.
        """
        if job.calibration is None:
            raise RuntimeError(
                "this walk collects a statistic: the method's `needs` must name CALIBRATION"
            )
        if gated and job.all_experts:
            raise UserError(
                "gate=true weighs the tokens that the router sends to an expert: leave "
                "calibration.all_experts out"
            )
        tokens = job.calibration
        self.all_experts, self.gated = job.all_experts, gated
        self.tokens = tokens.numel()
        """Number of calibration tokens of all processes."""
        self.batches, self._first_row = sharing.batches(
            tokens, batch or batch_of(tokens, job.compute.device)
        )
        self.reached: dict[str, int] = {}
        """Number of tokens that reached each linear of an expert."""
        self.few: list[str] = []
        """Linears of experts that fewer tokens reached than they have inputs."""
        self.sampled = 0
        """Number of rows of the largest sample."""
        self._accumulate, self._sharing, self._device = accumulate, sharing, job.compute.device
        # odd, else a sample has the same few positions of each sequence
        self._stride = (self.tokens // SAMPLE_ROWS) | 1

    def bytes_for(self, weights: Mapping[str, nn.Module], family: Family, by_expert: bool) -> int:
        """Return the largest size of what is in memory at a time: a statistic of each input, and
        two to factor one."""
        widths = {name: dense_weight(module).shape[1] for name, module in weights.items()}
        sizes = {w: self._accumulate(torch.empty(0, w), None).nbytes for w in set(widths.values())}
        most = 0
        for unit in input_widths(widths, family, by_expert):
            of_unit = [sizes[width] for width in unit]
            most = max(most, sum(of_unit) + 2 * max(of_unit))
        return most

    def observer(
        self, linears: Mapping[str, nn.Module], required: Collection[str], ends_early: bool = True
    ) -> Observer:
        """Return an observer of this process's tokens. The arguments are those of `Observer`."""
        return Observer(
            linears,
            required,
            self._accumulate,
            self._stride,
            ends_early=ends_early,
            first_row=self._first_row,
            gated=self.gated,
        )

    def of_block(
        self,
        activations: Activations,
        index: int,
        block: nn.Module,
        linears: Mapping[str, nn.Module],
    ) -> Observed:
        """Run a block until all inputs of its linears are collected."""
        mixtures = [module for module in block.modules() if isinstance(module, ExpertList)]
        inside = {id(module) for mixture in mixtures for module in mixture.modules()}
        routed = [name for name, module in linears.items() if id(module) in inside]
        # a pass goes to the end of a mixture: which experts its tokens will reach is not known
        # before
        observer = self.observer(linears, linears.keys() - routed, ends_early=not routed)
        try:
            for mixture in mixtures:
                mixture.all_tokens, mixture.tells_gates = self.all_experts, self.gated
            with observer:
                for hidden in activations.hidden:
                    observer.batch(lambda hidden=hidden: activations.run(index, block, hidden))  # type: ignore[misc]
        finally:
            for mixture in mixtures:
                mixture.all_tokens = mixture.tells_gates = False
        return self.pool(observer, linears, routed)

    def pool(
        self, observer: Observer, linears: Mapping[str, nn.Module], routed: Collection[str] = ()
    ) -> Observed:
        """Sum the statistics over processes. Every process must call it. routed: the linears of
        experts."""
        sharing, device = self._sharing, self._device
        # no token reached those without a source
        sources = {name: observer.sources.get(name, name) for name in linears}
        shapes = {name: dense_weight(module).shape for name, module in linears.items()}
        own_reached = {name: observer.reached[name] for name in routed}
        every = sharing.gather([own_reached, observer.samples()])
        reached = dict.fromkeys(routed, 0)
        for tokens, _ in every:
            for name in routed:
                reached[name] += tokens[name]
        few = [name for name, count in reached.items() if count < shapes[name][1]]
        self.reached |= reached
        self.few += few
        owners = self._owners(shapes, sources, routed)
        stats: dict[str, Tensor] = {}
        samples: dict[str, Tensor] = {}
        for source in dict.fromkeys(sources.values()):
            own = observer.take(source)
            users = [name for name in linears if sources[name] == source and name not in few]
            if not users:
                continue
            if own is None:
                empty = torch.empty(0, shapes[source][1], device=device, dtype=torch.float32)
                own = self._accumulate(empty, None), empty
            counts = [sizes.get(source, 0) for _, sizes in every]
            ranks = {owners[name] for name in users}
            stat = sharing.add_up(own[0], ranks)
            if sharing.rank in ranks:  # undefined elsewhere
                require_finite(stat, f"the inputs of {source}")
            rows = sharing.join_rows(own[1], counts, ranks)
            self.sampled = max(self.sampled, sum(counts))
            for name in users:
                if owners[name] == sharing.rank:
                    stats[name], samples[name] = stat, rows
        for name in few:
            if owners[name] == sharing.rank:
                stats[name] = self._accumulate(torch.eye(shapes[name][1], device=device), None)
        return Observed(stats, samples, owners)

    def _owners(
        self, shapes: Mapping[str, torch.Size], sources: Mapping[str, str], routed: Collection[str]
    ) -> dict[str, int]:
        """Return the rank that changes each linear.

        Linears with the same input have one owner, so that their Hessian is factored once, and so
        has an expert. The work is balanced by the cost of SparseGPT: in^3 for each Hessian, and
        in^2 out for each linear.
        """
        pieces = {
            name: name.rpartition(".")[0] if name in routed else sources[name] for name in shapes
        }
        costs = dict.fromkeys(pieces.values(), 0.0)
        for name, (rows, width) in shapes.items():
            costs[pieces[name]] += width**2 * (rows + width * (sources[name] == name))
        by_piece = self._sharing.divide(costs)
        return {name: by_piece[piece] for name, piece in pieces.items()}
