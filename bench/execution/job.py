"""The job of a stage: its input, calibration tokens, training text, the prior's masks, the dense
model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol

import psutil
import torch
from torch import Tensor

from bench.catalog import choice
from bench.inputs import corpora, loading, training_text, windows
from bench.inputs.bos import encode, first_tokens
from bench.inputs.corpora import Maker
from bench.inputs.mixtures import shares_of
from bench.inputs.own_text import template_of
from bench.inputs.shared_text import count_shared
from bench.planning.artifact import Artifact
from bench.planning.memory import STREAMED_FROM
from bench.system import digests, environments
from bench.system.cache import cache_dir
from bench.system.devices import select_card
from bench.system.products import use_float32
from bench.verify import WeightCounts
from methods.contract.axes import Kept
from methods.contract.codec import Storage
from methods.contract.method import Budget, Compute, Environment, Job, Method, Prior, Progress
from methods.contract.pattern import Pattern
from methods.model.folder import Folder
from methods.model.smaller_folder import rename
from methods.model.targets import family_of, find_targets


class PhaseProgress(Progress, Protocol):
    """A progress with the name of a phase, and the last figures of a method."""

    phase: str
    figures: dict[str, float]

    def enter(self, state: str) -> None:
        """Report the state before the first step of a phase: "loading" or "first step"."""


class Silent:
    """A progress that is not shown."""

    phase = ""
    figures: dict[str, float] = {}  # noqa: RUF012

    def enter(self, state: str) -> None: ...
    def advance(self, done: int, total: int, **figures: float) -> None: ...


@dataclass(frozen=True)
class BuiltStage:
    """The model after a stage, on disk, with the cost of the stage."""

    folder: Path
    notes: Mapping[str, Any]
    cost: Mapping[str, Any]
    kept: Kept | None
    """Parts of the source that are left. None: all."""
    changed: frozenset[str]
    """Tensors outside the targets that the stages so far declare as changed."""
    zeros_lost: int | None
    """Zeros of the stage's input that it filled. None: its check does not count them."""
    storage: Storage | None
    """Bytes of quantized weights. None: they are stored as numbers of the model's format."""


@dataclass(frozen=True)
class BuiltArtifact(BuiltStage):
    """The model after the last stage, with the counts of its check against the source."""

    counts: WeightCounts


class KeptWeights(Mapping[str, Tensor]):
    """The masks of a stage, bool [out, in] by target. Each is read when it is asked for: all may be
    larger than memory."""

    def __init__(self, folder: Folder, targets: Sequence[str]) -> None:
        self._folder, self._targets = folder, dict.fromkeys(targets)

    def __getitem__(self, target: str) -> Tensor:
        if target not in self._targets:
            raise KeyError(target)
        return self._folder.weight(target) != 0

    def __iter__(self) -> Iterator[str]:
        return iter(self._targets)

    def __len__(self) -> int:
        return len(self._targets)


class Workspace:
    """One artifact's source model in this process: its folder, targets, tokenizer and device."""

    def __init__(
        self, artifact: Artifact, progress: PhaseProgress, card: int | None = None
    ) -> None:
        """card: number of the card, for a rank after the first."""
        threads = artifact.threads if card is None else artifact.rank_threads
        torch.set_num_threads(threads)
        self.progress = progress
        self.source = Folder(artifact.folder)
        self._globs = artifact.include, artifact.exclude
        device = torch.device(artifact.device_of(card or 0))
        select_card(str(device))
        dtype: torch.dtype = getattr(torch, artifact.computed_in)
        shared, memory = artifact.calibration_ranks, artifact.max_memory
        self.compute = Compute(
            device=device,
            dtype=dtype,
            written_as=getattr(torch, artifact.dtype),
            threads=artifact.threads,
            stream=artifact.stream or not fits_device(self.source, device, dtype, memory, shared),
            max_bytes=int(1e9 * memory / shared) if memory else None,
        )
        self.tokenizer: Callable[[], Any] = cache(partial(loading.load_tokenizer, self.source.path))
        self.choose_products()

    def choose_products(self) -> None:
        """Let a CPU that is slow at bfloat16 multiply through float32, until a measure of speed
        ends that."""
        use_float32(
            wanted=(self.compute.device.type, self.compute.dtype) == ("cpu", torch.bfloat16)
        )

    def targets_of(self, folder: Folder, kept: Kept | None = None) -> tuple[str, ...]:
        """Return the targets of the source, or of a stage's result: a model made elsewhere may have
        other layers.

        kept: what is left of the source, None for all. The names that a user types are those of the
        source.
        """
        if kept is None:
            return find_targets(folder.config, folder.shapes(), *self._globs)
        family = family_of(self.source.config)
        return tuple(
            name
            for target in self.targets_of(self.source)
            if (name := rename(family, kept, target))
        )

    def job(
        self, artifact: Artifact, before: BuiltStage | None, workdir: Path, teacher: Path
    ) -> tuple[Path, Method, Job]:
        """Return the source of the last stage, its method and its job.

        before: the artifact up to that stage, or None for the first stage; teacher: folder of the
        dense model.
        """
        stage = artifact.stages[-1]
        source = before.folder if before else self.source.path
        compute = replace(self.compute, scratch=workdir)
        text, validation = self._training(artifact) if "training" in stage.needs else (None, None)
        calibration = self.calibration(artifact) if "calibration" in stage.needs else None
        run, budget = artifact.training, Budget()
        if run:
            budget = Budget(tokens=run.tokens, micro=run.micro, checkpoint_s=artifact.checkpoint_s)
        if text:
            workdir = checkpoint_folder(artifact)
        if text and artifact.processes > 1:
            compute = replace(compute, is_shared=True, stream=False)
        prior = None
        kept = before.kept if before else None
        targets = self.targets_of(Folder(source), kept)
        if before:
            prior = Prior(folder=before.folder, masks=KeptWeights(Folder(before.folder), targets))
        entry, environment = stage.entry, None
        if "isolated" in stage.needs:
            log = cache_dir() / "artifacts" / f"{artifact.key[:32]}.log"
            environment = Environment(
                name=entry.environment, python=environments.python(entry.environment), log=log
            )
        job = Job(
            source=source,
            pattern=Pattern.parse(stage.pattern),
            targets=targets,
            prior=prior,
            blocks=kept.get("blocks") if kept else None,
            environment=environment,
            calibration=calibration,
            all_experts=artifact.calibration is not None and artifact.calibration.all_experts,
            training=text,
            validation=validation,
            budget=budget,
            compute=compute,
            seed=artifact.seed or 0,
            workdir=workdir,
            progress=self.progress,
            teacher=lambda: loading.load(teacher, compute),
        )
        method = choice.build(entry, stage.name, stage.config)
        return source, method, job

    def calibration(self, artifact: Artifact) -> Tensor:
        """Return the calibration tokens of an artifact: int64 [sequences, seqlen]."""
        recipe = artifact.calibration
        assert recipe is not None
        tokenizer = self.tokenizer()
        first = first_tokens(tokenizer, recipe.bos)
        crops = windows.draw_calibration(
            recipe.data,
            recipe.sequences,
            recipe.seqlen,
            artifact.seed or 0,
            lambda text: list(encode(tokenizer, text, first)["input_ids"]),
            artifact.data_dir,
            first,
            template_of(tokenizer),
            self.maker(artifact),
            recipe.packing or "crops",
        )
        return torch.tensor(crops)

    def count_shared(self, artifact: Artifact) -> dict[str, dict[str, int] | None]:
        """Return how many passages each calibration text shares with test questions, by track."""
        assert artifact.calibration is not None
        maker, data_dir = self.maker(artifact), artifact.data_dir

        def texts(name: str) -> Iterator[str]:
            for document in corpora.documents(name, "calibration", data_dir, None, maker):
                yield document if isinstance(document, str) else maker.tokenizer.decode(document)

        names = shares_of(artifact.calibration.data)
        return {name: count_shared(name, partial(texts, name), data_dir) for name in names}

    def maker(self, artifact: Artifact) -> Maker:
        """Return what a corpus needs that the dense model makes."""
        assert artifact.calibration is not None
        load = partial(loading.load, self.source.path, self.compute)
        return Maker(
            self.tokenizer(), load, self.source.path, self.compute, artifact.calibration.bos
        )

    def _training(self, artifact: Artifact) -> tuple[training_text.PackedCorpus, Tensor]:
        run = artifact.training
        assert run is not None
        text, validation = training_text.load(
            run.data,
            self.tokenizer(),
            # With the chat template.
            digests.of([run.content, run.source, artifact.tokenizer, artifact.companions]),
            need=run.tokens,
            seqlen=run.seqlen,
            sequences=run.batch,
            seed=artifact.seed or 0,
            data_dir=artifact.data_dir,
            bos=run.bos,
        )
        return text, torch.from_numpy(validation)


def checkpoint_folder(artifact: Artifact) -> Path:
    """Return the folder of a training's checkpoints, which is the same for any number of
    processes."""
    return cache_dir() / "training" / artifact.lock_name


def fits_device(
    folder: Folder,
    device: torch.device,
    dtype: torch.dtype,
    max_memory: float | None = None,
    shared: int = 1,
) -> bool:
    """Return whether the model takes less than STREAMED_FROM of the device's free memory.

    max_memory: limit of a CPU's memory in GB, divided among `shared` processes.
    """
    need = sum(math.prod(s) for s in folder.shapes().values()) * dtype.itemsize
    if device.type == "cuda":
        return need < STREAMED_FROM * torch.cuda.mem_get_info(device)[0]
    free: float = psutil.virtual_memory().available
    if max_memory:
        free = min(free, 1e9 * max_memory)
    return need < STREAMED_FROM * free / shared
