"""Ways to hold the blocks of a model while calibration tokens pass through them: in memory,
streamed, or by expert."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from methods.contract.method import LIBRARY_BYTES, Compute, Job
from methods.model.experts import Expert, ExpertList, Stacked, experts_of, stacked_as, unfold
from methods.model.folder import Folder, Writer
from methods.model.stacks import Stacks
from methods.model.targets import family_of
from methods.workshop.pruning.activations import Activations, batch_of
from methods.workshop.pruning.block_reader import BlockReader, release
from methods.workshop.pruning.expert_pass import ExpertPass
from methods.workshop.pruning.statistics import NOTHING, Observed, Statistics

SHARD_BYTES = 2**26
"""Size of the shards of a streamed model, of one block or of several small ones. A shard is in
memory until it is complete."""


class Part(NamedTuple):
    """Linears whose weights are in memory, and their inputs."""

    linears: dict[str, nn.Module]
    inputs: Observed


class InMemory:
    """Blocks that are all in memory. The other ways to hold a block derive from this one."""

    by_expert = False
    copies = 1
    """Number of tensors of all calibration tokens' activations that exist at a time."""

    def __init__(self, model: nn.Module) -> None:
        self.model = unfold(model)
        self.family = family_of(model.config.to_dict())  # type: ignore[operator, union-attr]
        blocks = model.get_submodule(self.family.blocks)
        assert isinstance(blocks, nn.ModuleList)
        self.blocks = blocks

    def __enter__(self) -> InMemory:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @property
    def parameters(self) -> int:
        """Largest number of the model's parameters that are in memory at a time."""
        return _count(self.model)

    def name(self, index: int) -> str:
        """Return the name of a block in the model."""
        return f"{self.family.blocks}.{index}"

    def start(
        self, batches: Sequence[Tensor], compute: Compute, *, beside: int = 0, last: bool = False
    ) -> Activations:
        """Return the inputs of the first block, on disk if `compute.max_bytes` has no room for
        them.

        beside: bytes of other tensors in memory; last: see `Activations`.
        """
        width = self.model.get_input_embeddings().weight.shape[1]  # type: ignore[operator]
        states = self.copies * sum(part.numel() for part in batches) * width
        needed = LIBRARY_BYTES + (self.parameters + states) * compute.dtype.itemsize + beside
        fits = compute.max_bytes is None or needed <= compute.max_bytes
        return Activations(
            self.model, self.blocks, batches, compute, None if fits else compute.scratch, last
        )

    @contextmanager
    def block(self, index: int) -> Iterator[nn.Module]:
        """Hold the weights of a block, and store it at the end."""
        yield self.blocks[index]

    @contextmanager
    def expert(self, index: int, number: int) -> Iterator[Expert]:
        """Hold the weights of one expert of a mixture's block."""
        found = experts_of(self.blocks[index])
        assert found
        expert = found[1][number]
        assert isinstance(expert, Expert)
        yield expert

    def parts(
        self,
        index: int,
        linears: dict[str, nn.Module],
        tokens: Activations | None,
        statistics: Statistics | None,
    ) -> Iterator[Part]:
        """Yield the parts of a block, one in memory after the other, for the caller to change. Then
        pass the tokens on.

        linears: those to yield; tokens: the inputs of the block, which become its outputs;
        statistics: what to collect.
        """
        with self.block(index) as block:
            yield Part(linears, self._observe(index, linears, tokens, statistics))
            if tokens and tokens.needs_output_of(index):
                tokens.advance(index, block)

    def _observe(
        self,
        index: int,
        linears: dict[str, nn.Module],
        tokens: Activations | None,
        statistics: Statistics | None,
    ) -> Observed:
        if not (tokens and statistics and linears):
            return NOTHING
        return statistics.of_block(tokens, index, self.blocks[index], linears)

    def result(self) -> nn.Module | Path:
        """Return the model, or the folder that it was written to."""
        return self.model


class Streamed(InMemory):
    """Blocks on disk. One is in memory at a time, and the next one that a thread reads
    meanwhile."""

    def __init__(
        self, model: nn.Module, source: Path, compute: Compute, output: Path | None
    ) -> None:
        """source: the folder with the weights; output: a folder to write the changed model to, or
        None."""
        super().__init__(model)
        self._source, self._compute = source, compute
        self._writer = Writer(output, SHARD_BYTES, compute.stored) if output else None

    def __enter__(self) -> Streamed:
        self._reader = BlockReader(
            self.blocks, self.family.blocks, self._source, self._compute, self.by_expert
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.__exit__()

    @property
    def parameters(self) -> int:
        outside = _count(self.model) - _count(self.blocks)
        return outside + max(map(self._parameters_of, self.blocks))

    def _parameters_of(self, block: nn.Module) -> int:
        """Return the number of parameters of a block and of what is read meanwhile."""
        return 2 * _count(block)

    @contextmanager
    def block(self, index: int) -> Iterator[nn.Module]:
        block = self.blocks[index]
        self._reader.load(index)
        yield block
        if self._writer:
            prefix = self.name(index)
            tensors = {f"{prefix}.{name}": tensor for name, tensor in block.state_dict().items()}
            # experts that are on meta again are written already
            names = [
                n
                for n, tensor in tensors.items()
                if not (tensor.is_meta and stacked_as(n, self.family))
            ]
            self._writer.add_folded(names, tensors.__getitem__, self.family)
        release(block)

    def result(self) -> nn.Module | Path:
        if self._writer is None:
            return self.model
        source = Folder(self._source)
        for name, tensor in self.model.state_dict().items():
            if self.family.block_of(name) is None and not tensor.is_meta and name in source:
                self._writer.add(name, tensor)
        return self._writer.close()


class ByExpert(Streamed):
    """Blocks of mixtures on disk. Two experts are in memory at a time, beside the rest of their
    block.

    Each expert is read once. Linears before the experts are observed and changed first, so the
    inputs of the experts are kept from before that change, for the statistic, and from after it,
    for the output of the block.
    """

    by_expert = True
    # Inputs of the block, inputs of its experts before and after the change, and outputs of them.
    copies = 4

    def _parameters_of(self, block: nn.Module) -> int:
        found = experts_of(block)
        if not found:
            return super()._parameters_of(block)
        expert, rest = _count(found[1][0]), _count(block) - _count(found[1])
        return rest + expert + max(rest, expert)

    @contextmanager
    def expert(self, index: int, number: int) -> Iterator[Expert]:
        with self._reader.expert(index, number) as expert:
            yield expert

    def parts(
        self,
        index: int,
        linears: dict[str, nn.Module],
        tokens: Activations | None,
        statistics: Statistics | None,
    ) -> Iterator[Part]:
        found = experts_of(self.blocks[index])
        if not found:
            yield from super().parts(index, linears, tokens, statistics)
            return
        prefix = f"{self.name(index)}.{found[0]}"
        inner = {name: module for name, module in linears.items() if name.startswith(f"{prefix}.")}
        outer = {name: module for name, module in linears.items() if name not in inner}
        with self.block(index) as block:
            before = None
            if tokens and statistics and inner:
                with statistics.observer(outer, outer, ends_early=False) as observer:
                    before = ExpertPass(tokens, index, block, observer)
                yield Part(outer, statistics.pool(observer, outer))
            else:
                yield Part(outer, self._observe(index, outer, tokens, statistics))
            after = None
            if tokens and tokens.needs_output_of(index):
                after = ExpertPass(tokens, index, block)
            with self._stacks(prefix, found[1]) as stacks:
                for number, expert in self._reader.experts(index):
                    own = {
                        name: module
                        for name, module in inner.items()
                        if name.startswith(f"{prefix}.{number}.")
                    }
                    if before and statistics and own:
                        assert isinstance(expert, Expert)
                        yield Part(own, before.observe(number, expert, own, statistics))
                    else:
                        yield Part(own, NOTHING)
                    if after:
                        after.run(number, expert)
                    if stacks:
                        self._store(stacks, f"{prefix}.{number}.", expert)
            del before
            if after:
                after.finish()

    def _stacks(self, prefix: str, experts: ExpertList) -> AbstractContextManager[Stacks | None]:
        """Return the file for the experts of a block, None if nothing is written. prefix: their
        name in the model."""
        if not self._writer:
            return nullcontext()
        entries = self._entries(f"{prefix}.0.", experts[0])
        count = sum(isinstance(expert, Expert) for expert in experts)  # constants are not stored
        shapes = {place.name: (count, *entry.shape) for place, entry in entries}
        return self._writer.add_stacks(shapes, self._compute.stored)

    def _store(self, stacks: Stacks, prefix: str, expert: nn.Module) -> None:
        for place, entry in self._entries(prefix, expert):
            stacks.write(place.name, place.number, entry.to(self._compute.stored))

    def _entries(self, prefix: str, expert: nn.Module) -> Iterator[tuple[Stacked, Tensor]]:
        """Yield the tensors of an expert as stored, each with its place."""
        for name, tensor in expert.state_dict().items():
            place = stacked_as(prefix + name, self.family)
            assert place
            yield place, place.entry(tensor)


def hold(
    model: nn.Module,
    source: Path,
    compute: Compute,
    output: Path | None = None,
    *,
    by_expert: bool = True,
) -> InMemory:
    """Return the way to hold the blocks of a model: streamed if they are on the meta device, and
    mixtures by expert.

    source: the folder with its weights; output: a folder to write a streamed model to, None to read
    it only; by_expert: false if the caller needs whole blocks.
    """
    held = InMemory(model)
    if not any(p.is_meta for p in held.blocks.parameters()):
        return held
    kind = ByExpert if by_expert and any(map(experts_of, held.blocks)) else Streamed
    return kind(model, source, compute, output)


def each_block(model: nn.Module, job: Job) -> Iterator[tuple[int, nn.Module, Activations]]:
    """Yield each block with its index and the calibration tokens before it, which the caller passes
    on."""
    tokens = job.calibration
    assert tokens is not None
    held = hold(model, job.source, job.compute, by_expert=False)
    states = held.start(tokens.split(batch_of(tokens, job.compute.device)), job.compute, last=True)
    with held:
        for i in range(len(held.blocks)):
            with held.block(i) as block:
                yield i, block, states
            job.progress.advance(i + 1, len(held.blocks))


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
