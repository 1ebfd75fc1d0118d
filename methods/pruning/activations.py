"""The calibration tokens' activations between blocks, and what a block's linears are given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from methods.contract import LIBRARY_BYTES, Compute
from methods.experts import ExpertList, experts_of
from methods.pruning.block_reader import is_on_disk
from methods.pruning.observer import Accumulate, Observer, Stop
from methods.pruning.pooling import pool
from methods.pruning.sharing import Sharing
from methods.pruning.states import States, StatesInMemory, StatesOnDisk
from methods.targets import dense_weight

BATCH_TOKENS = {"cpu": 512, "cuda": 16384}
"""Tokens per forward pass of one block: enough for large matrix products, few enough for a CPU's cache."""

COPIES_BY_EXPERT = 4
"""Of the activations, where experts are brought one by one: a block's inputs, what its experts are given before it is pruned
and after, and what they give."""


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
            raise Stop
        return hidden


class Observed(NamedTuple):
    """What linears of a block were given. Those with the same input share one tensor, the same object."""

    stats: dict[str, Tensor]
    samples: dict[str, Tensor]
    """Input rows, float32 [some, in]."""
    owners: dict[str, int]
    """Where processes share a calibration, which of them changes each linear. The others have neither its statistic nor its
    sample."""


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
        by_expert: bool = False,
        sharing: Sharing | None = None,
        beside: int = 0,
    ) -> None:
        """batch: sequences per forward pass. By default as many as BATCH_TOKENS allows.

        all_experts: every expert sees all tokens while statistics are collected; by_expert: experts are brought one by one
        (`methods.pruning.expert_pass`); sharing: the processes that share the tokens, of which this one runs its part;
        beside: bytes that whoever uses them has in memory, too.
        """
        self.device = compute.device
        self.all_experts = all_experts
        self._sharing = sharing or Sharing(compute.device)
        self.tokens = tokens.numel()
        """Of all processes."""
        self.sampled = 0
        """Rows of the largest sample."""
        self.reached: dict[str, int] = {}
        """How many tokens came to each linear of an expert."""
        self.few: list[str] = []
        """Of these, where they were fewer than the linear's inputs."""
        parts = self._sharing.batches(tokens, batch or max(1, BATCH_TOKENS[self.device.type] // tokens.shape[1]))
        width = model.get_input_embeddings().weight.shape[1]  # type: ignore[operator]
        own = sum(part.numel() for part in parts)
        self._before = sum(self._sharing.gather(own)[: self._sharing.rank])
        states = (COPIES_BY_EXPERT if by_expert else 1) * own * width * compute.dtype.itemsize
        fits = compute.scratch is None or _fits(states + beside, model, blocks, compute, by_expert)
        self._scratch = None if fits else compute.scratch
        self.hidden: list[Tensor] | StatesOnDisk = self.make_states()
        self._storage = torch.device("cpu") if compute.stream or self._scratch else compute.device
        self._calls: dict[int, list[tuple[tuple[Any, ...], dict[str, Any]]]] = {}
        originals = list(blocks)
        for part in parts:
            calls: list[tuple[Tensor, tuple[Any, ...], dict[str, Any]]] = []
            try:
                for i, block in enumerate(originals):
                    blocks[i] = Recorder(block, calls, last=i == len(originals) - 1)
                model(input_ids=part.to(self.device), use_cache=False)
            except Stop:
                pass
            finally:
                for i, block in enumerate(originals):
                    blocks[i] = block
            self.hidden.append(calls[0][0].to(self._storage))
            self._calls.setdefault(len(part), [(args, kwargs) for _, args, kwargs in calls])

    def make_states(self) -> States:
        """An empty list for activations of all tokens, where these are kept."""
        return StatesOnDisk(self._scratch) if self._scratch else StatesInMemory()

    def run(self, index: int, block: nn.Module, hidden: Tensor) -> Tensor:
        args, kwargs = self._calls[len(hidden)][index]
        out = block(hidden.to(self.device), *args, **kwargs)
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
        routed = {name: module for name, module in linears.items() if id(module) in inside}
        required = linears.keys() - routed
        ends = not routed  # which of the experts will be reached is not known
        observer = Observer(linears, required, accumulate, self.stride(sample_rows), ends, self._before)
        try:
            for layer in experts:
                layer.all_tokens = self.all_experts
            with observer:
                for hidden in self.hidden:
                    observer.batch(lambda hidden=hidden: self.run(index, block, hidden))  # type: ignore[misc]
        finally:
            for layer in experts:
                layer.all_tokens = False
        if self._sharing.world > 1:
            pooled = pool(self._sharing, linears, observer, list(routed), accumulate, self.device)
            self.sampled = max(self.sampled, pooled.sampled)
            self.few += pooled.few
            self.reached |= pooled.reached
            return Observed(pooled.stats, pooled.samples, pooled.owners)
        stats, samples = observer.statistics(), observer.samples()
        self.settle(routed, observer.reached, stats, samples, accumulate)
        return Observed(stats, samples, {})

    def stride(self, sample_rows: int) -> int:
        """Of how many calibration tokens one is in a sample of about so many.

        It is odd: sequences are mostly powers of two long, and an even one would sample the same few positions of each.
        """
        return (self.tokens // sample_rows) | 1

    def settle(
        self,
        routed: Mapping[str, nn.Module],
        reached: Mapping[str, int],
        stats: dict[str, Tensor],
        samples: dict[str, Tensor],
        accumulate: Accumulate,
    ) -> None:
        """Count the tokens of experts' linears, and give those with too few the statistic of white noise, and no sample."""
        for name, module in routed.items():
            count, width = reached[name], dense_weight(module).shape[1]
            if count < width:
                stats[name] = accumulate(torch.eye(width, device=self.device), None)
                samples.pop(name, None)
                self.few.append(name)
            self.reached[name] = count


def _fits(own: int, model: nn.Module, blocks: nn.ModuleList, compute: Compute, by_expert: bool) -> bool:
    """Whether so many bytes of activations and statistics fit beside the model in `compute.max_bytes`: beside all of it, or
    where it is streamed what is outside the blocks and the largest two things that are read one after the other."""
    if compute.max_bytes is None:
        return True
    parameters = _count(model)
    if is_on_disk(blocks):
        parameters += max(_streamed_parameters(block, by_expert) for block in blocks) - _count(blocks)
    return LIBRARY_BYTES + parameters * compute.dtype.itemsize + own <= compute.max_bytes


def _streamed_parameters(block: nn.Module, by_expert: bool) -> int:
    """Of a block that is streamed, and of what is read meanwhile: the next block, or an expert."""
    found = experts_of(block) if by_expert else None
    if not found:
        return 2 * _count(block)
    expert = _count(found[1][0])
    rest = _count(block) - _count(found[1])
    return rest + expert + max(rest, expert)


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
