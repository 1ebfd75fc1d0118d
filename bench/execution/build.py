"""Build an artifact stage by stage in the cache, and check each stage."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import shutil
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from filelock import Timeout
from torch import nn

from bench.catalog import registry
from bench.execution import outer
from bench.execution.events import WAITING
from bench.execution.job import (
    BuiltArtifact,
    BuiltStage,
    PhaseProgress,
    Workspace,
    checkpoint_folder,
)
from bench.execution.memory_limit import return_free_memory
from bench.execution.smaller import is_same, kept_of, opened, write_smaller
from bench.execution.source_guard import read_only
from bench.formats import stored as stored_folder
from bench.inputs import loading, models, windows
from bench.planning.artifact import Artifact
from bench.planning.memory import estimate_disk_bytes
from bench.results.record import MAX_AMOUNT
from bench.system import provenance, surroundings
from bench.system.cache import build_lock, cache_dir, is_built, make_room, temporary_folder
from bench.system.files import publish, write_file
from bench.verify import (
    FUNCTION_TOLERANCE,
    MOST_CHANGED,
    ROUNDINGS,
    CheckFailed,
    WeightCounts,
    count_constants,
    count_folder,
    count_terms,
    function_error,
    require_same_function,
    round_weights,
    verify,
)
from methods.contract.axes import Kept
from methods.contract.codec import STORED_KEY, Storage, StoredWeight
from methods.contract.errors import UserError
from methods.contract.info import Does
from methods.contract.method import Job, Outcome
from methods.contract.pattern import Pattern
from methods.model import constant_experts, low_rank_adapter
from methods.model.families import frozen as as_tuples
from methods.model.folder import Folder, Writer, dtype_name, save
from methods.model.header import TORCH_DTYPES, read_header
from methods.model.safe_files import find_file
from methods.model.smaller_folder import rename
from methods.model.targets import family_of
from methods.model.terms import terms_of
from methods.workshop.pruning import streaming
from methods.workshop.training.interrupt import stop_request

CARRIED = ("config.json", *models.COMPANIONS)
"""Files that a pruned folder copies from its source."""
SENTENCE = (
    "Sparse models read this sentence before and after a change of their weights, and predict "
    "each word alike."
)
"""Text on which a transform must keep the logits."""


class Builder:
    def __init__(
        self, artifact: Artifact, progress: PhaseProgress, card: int | None = None
    ) -> None:
        self.workspace = Workspace(artifact, progress, card)
        self.source = self.workspace.source

    def build(self, artifact: Artifact) -> BuiltArtifact:
        """Return the artifact from the cache, or build and check its stages in order. Raise
        CheckFailed, or a method's error."""
        stage, counts = self._build_stage(artifact)
        # So far, each stage was checked against its own input only.
        if counts is None or len(artifact.stages) > 1:
            before, frozen = opened(self.source.path, stage.kept), len(artifact.stages) == 1
            counts = self._verify(
                before, stage.folder, artifact, stage.changed, stage.kept, frozen=frozen
            )
            counts.zeros_lost = stage.zeros_lost
        return BuiltArtifact(**vars(stage), counts=counts)

    def _build_stage(self, artifact: Artifact) -> tuple[BuiltStage, WeightCounts | None]:
        """Return the last stage from the cache, or build it. Returns its check against its input,
        too, if it was built here."""
        home, before, counts = cache_dir() / "artifacts" / artifact.key[:32], None, None
        if not is_built(home.name):
            before = self._before(artifact)
            self.workspace.progress.phase = artifact.stages[-1].label
            with self._locked(artifact):
                if not is_built(home.name):
                    counts = self._make(artifact, before, home)
        about = json.loads((home / "artifact.json").read_text())
        folder = home
        if about["unchanged"]:  # the cache keeps no path, because a model may move
            before = before or self._before(artifact)
            folder = before.folder if before else self.source.path
        kept = as_tuples(about["kept"])
        changed, lost = frozenset(about["changed"]), about.get("zeros_lost")
        storage = Storage(**about["storage"]) if about["storage"] else None
        return BuiltStage(
            folder, about["notes"], about["cost"], kept, changed, lost, storage
        ), counts

    def _locked(self, artifact: Artifact) -> contextlib.AbstractContextManager[object]:
        """Take the lock of the last stage, which other artifacts and other runs may need too.

        The number of processes of a training does not change its lock, because they share
        checkpoints.
        """
        lock = build_lock(artifact.lock_name)
        try:
            return lock.acquire(timeout=0)
        except Timeout:
            self.workspace.progress.enter(WAITING)
            return lock.acquire()

    def _make(self, artifact: Artifact, before: BuiltStage | None, home: Path) -> WeightCounts:
        """Run the last stage and publish the result in the cache."""
        self.workspace.progress.enter("loading")
        make_room(estimate_disk_bytes(artifact, stages=1))
        try:
            with temporary_folder(artifact.key[:8]) as workdir:
                counts = self._apply(artifact, before, workdir)
                # An interrupted deletion may leave a rest. Without locks another worker may be
                # faster.
                if not is_built(home.name):
                    shutil.rmtree(home, ignore_errors=True)
                publish(workdir / "artifact", home)
        finally:  # also after a fault, or a later signal would wait for a training that is gone
            stop_request.release()
        shutil.rmtree(checkpoint_folder(artifact), ignore_errors=True)
        return counts

    def _before(self, artifact: Artifact) -> BuiltStage | None:
        """Return the input of the last stage, or None if that is the model itself."""
        if len(artifact.stages) > 1:
            return self._build_stage(artifact.up_to(len(artifact.stages) - 1))[0]
        return None

    def _teacher(self, artifact: Artifact) -> Path:
        """Return the folder of the dense model: with the transforms before the other stages, whose
        basis they share."""
        transforms = [Does.KEEPS_FUNCTION in stage.entry.does for stage in artifact.stages[:-1]]
        count = len(list(itertools.takewhile(bool, transforms)))
        return self._build_stage(artifact.up_to(count))[0].folder if count else self.source.path

    def _verify(
        self,
        before: Folder,
        after: Path,
        artifact: Artifact,
        changed: Collection[str],
        kept: Kept | None,
        *,
        frozen: bool,
    ) -> WeightCounts:
        """Check the folder of the last stage against a folder `before`, and count its weights.

        kept: parts of the source that are left. None: all.
        frozen: True if the last stage is the only one since `before`. If it removes parts, it may
        not change a weight.
        """
        stage, opened_after = artifact.stages[-1], Folder(after)
        does = stage.entry.does
        pattern = Pattern() if does & Does.LEAVES_DENSE else Pattern.parse(stage.pattern)
        targets, counting = (
            self.workspace.targets_of(opened_after, kept),
            stage.kind == "quantizers",
        )
        if before.path == self.source.path and Does.IMPORTS in artifact.stages[0].entry.does:
            return count_folder(opened_after, pattern, targets, changed, counting=counting)
        dtype, frozen = self.workspace.compute.stored, frozen and Does.REMOVES in does
        counts = verify(
            before, opened_after, pattern, targets, changed, dtype, counting=counting, frozen=frozen
        )
        count_terms(counts, low_rank_adapter.read(after), opened_after, dtype)
        count_constants(counts, constant_experts.read(after), dtype)
        # Several copies of the embedding were compared, and measures need none of that memory.
        return_free_memory()
        return counts

    def _apply(self, artifact: Artifact, before: BuiltStage | None, workdir: Path) -> WeightCounts:
        """Run the last stage, check it, and write it to workdir/artifact."""
        stage = artifact.stages[-1]
        source, method, job = self.workspace.job(artifact, before, workdir, self._teacher(artifact))
        tokens = job.calibration
        model = loading.load(source, job.compute)
        torch.manual_seed(job.seed)
        self.workspace.progress.enter("first step")
        self.workspace.progress.figures = {}
        started = time.monotonic()
        # As decided before other processes took memory.
        streamed = {"stream": self.workspace.compute.stream}
        shared = _start_ranks(artifact.model_copy(update=streamed))
        with read_only(source, CARRIED, stage.label), shared, surroundings.kept():
            outcome = method.apply(model, job)
        if not isinstance(outcome, Outcome):
            raise TypeError(
                f"{stage.name}.apply returned {type(outcome).__name__}: end it with return "
                "walk.outcome()"
            )
        # A method may report any number.
        rate = self.workspace.progress.figures.get("tokens_per_s", math.nan)
        cost: dict[str, Any] = {
            "build_s": round(time.monotonic() - started, 3),
            "build_peak_bytes": provenance.peak_bytes(artifact.device),
            "calibration_tokens": 0,
            "training_tokens": 0,
            "training_tokens_per_s": None,
        }
        if tokens is not None:
            cost["calibration_tokens"] = tokens.numel()
        if job.training and artifact.training:
            cost["training_tokens"] = artifact.training.tokens
        if job.training and 0 <= rate <= MAX_AMOUNT:
            cost["training_tokens_per_s"] = rate
        notes = dict(outcome.notes)
        if STORED_KEY in notes:
            raise UserError(
                f"{stage.label} has notes on {STORED_KEY!r}, which the runner writes: use "
                "visit.store"
            )
        if tokens is not None:
            notes["calibration_digest"] = windows.token_digest(tokens)
            notes["shared_with_tracks"] = self.workspace.count_shared(artifact)
        target = workdir / "artifact"
        smaller = kept_of(outcome, stage, source)
        folder = self._keep(outcome, model, source, target, smaller, changes_more=bool(stage.outer))
        if Does.KEEPS_FUNCTION in stage.entry.does and folder != source:
            notes["function_error"] = self._function_error(source, folder, job)
        declared, stored, storage = outcome.changed, outcome.stored, outcome.storage
        # Free their memory for the embedding and the check.
        del model, outcome
        return_free_memory()
        embeddings: dict[str, StoredWeight] = {}
        if stage.outer:
            with surroundings.kept():
                embeddings = outer.round_(folder, stage.outer)
        declared |= {f"{module}.weight" for module in embeddings}
        changed, kept = declared, None
        if before:
            changed, kept = declared | before.changed, before.kept
        if smaller is not None:
            family, kept = family_of(self.source.config), smaller
            changed = frozenset(name for old in changed if (name := rename(family, kept, old)))
            declared = frozenset(name for old in declared if (name := rename(family, kept, old)))
        try:
            counts = self._verify(
                opened(source, smaller), folder, artifact, declared, kept, frozen=True
            )
        except CheckFailed as fault:
            if folder == target:
                raise
            # The method worked on copies, which the walk does not see.
            raise CheckFailed(
                f"no weight changed: write into visit.weight or call visit.prune ({fault})"
            ) from None
        if stored or embeddings:
            written = self._store({**stored, **embeddings}, set(embeddings), target, counts, job)
        if stored:
            storage = self._with_floats(written, counts)
        elif storage and stage.entry.is_plugin:
            storage = replace(storage, claimed=storage.claimed or stage.name)
        about = {
            "unchanged": folder != target,
            "changed": sorted(changed),
            "notes": notes,
            "cost": cost,
            "zeros_lost": counts.zeros_lost,
            "kept": kept,
            "storage": storage and asdict(storage),
            "key_inputs": artifact.key_inputs(),
        }
        write_file(target / "artifact.json", json.dumps(about, allow_nan=False))
        return counts

    def _store(
        self,
        stored: Mapping[str, StoredWeight],
        embeddings: Collection[str],
        home: Path,
        counts: WeightCounts,
        job: Job,
    ) -> stored_folder.StoredFolder:
        """Write the stored weights of a stage beside those that are measured, and read them again.

        embeddings: modules of `stored` that are the embedding and the head. home: folder of the
        model. Raise CheckFailed if a stored weight is another one than is measured.
        """
        strangers = sorted(stored.keys() - counts.layers.keys() - set(embeddings))
        if strangers:
            raise CheckFailed(f"{strangers[0]} is stored, and it is not a target")
        pattern = Pattern() if counts.violations else counts.pattern
        measured = Folder(home)
        known = measured.shapes()
        shapes = {target: known[f"{target}.weight"] for target in stored}
        stored_folder.write(home, stored, shapes, pattern, embeddings)
        written = stored_folder.StoredFolder(home)
        for target in written:
            decoded = written[target].decode().to(job.compute.dtype).to(job.compute.stored)
            if not torch.equal(decoded, measured.weight(target)):
                raise CheckFailed(
                    f"the stored tensors of {target} give another weight than the one that is "
                    "measured"
                )
        return written

    def _with_floats(self, written: stored_folder.StoredFolder, counts: WeightCounts) -> Storage:
        """Count the bytes of all targets, those that are numbers of the model's format too."""
        pattern = Pattern() if counts.violations else counts.pattern
        rest = sum(
            layer.weights for target, layer in counts.layers.items() if target not in written
        )
        size = self.workspace.compute.stored.itemsize
        return written.count().with_floats(rest, size, pattern)

    def _function_error(self, before: Path, after: Path, job: Job) -> dict[str, float]:
        """Measure a transform's change of the logits, on random tokens and text. Raise CheckFailed
        if it exceeds rounding."""
        self.workspace.progress.enter("checking")
        compute = replace(job.compute, dtype=torch.promote_types(job.compute.dtype, torch.float32))
        old, new = loading.load(before, compute), loading.load(after, compute)
        size: int = old.config.vocab_size  # type: ignore[union-attr, assignment]
        random = torch.randint(size, (1, 64), generator=torch.Generator().manual_seed(0))
        text = torch.tensor(self.workspace.tokenizer()(SENTENCE)["input_ids"])[None]
        tokens = {"random_tokens": random, "text": text}
        stored, out = self.workspace.compute.stored, {}
        for name, ids in tokens.items():
            ids, limit = ids.to(compute.device), FUNCTION_TOLERANCE[dtype_name(stored)]
            error = function_error(old, new, ids)
            if error > limit:  # random tokens can amplify rounding: measure by how much
                rounded = loading.load(before, compute)
                round_weights(rounded, job.targets, stored)
                limit = max(limit, min(ROUNDINGS * function_error(old, rounded, ids), MOST_CHANGED))
            out[name] = float(f"{require_same_function(error, limit):.3g}")
        return out

    def run_as_rank(self, artifact: Artifact) -> None:
        """Take part in the last stage as a rank after the first."""
        before = self._before(artifact)
        with temporary_folder(artifact.key[:8]) as workdir:
            source, method, job = self.workspace.job(
                artifact, before, workdir, self._teacher(artifact)
            )
            model = loading.load(source, job.compute)
            torch.manual_seed(job.seed)
            method.apply(model, job)

    def _keep(
        self,
        outcome: Outcome,
        loaded: nn.Module,
        source: Path,
        target: Path,
        kept: Kept | None,
        *,
        changes_more: bool,
    ) -> Path:
        """Write the model and return its folder, or return the source if nothing changed.

        loaded: the model that the method got; kept: what is left of the source, None for all.
        changes_more: the folder is changed later, so it may not be the source.
        """
        target.mkdir(exist_ok=True)
        stored = self.workspace.compute.stored
        changes = dict(outcome.config)
        # a model that processes share is gathered in a folder
        gathered = low_rank_adapter.read(outcome.model) if isinstance(outcome.model, Path) else {}
        terms = gathered or terms_of(loaded, stored)
        if kept is not None:
            merged = outcome.model if isinstance(outcome.model, Path) else None
            model = loaded if isinstance(outcome.model, Path) else outcome.model
            changes |= write_smaller(model, source, kept, target, stored, outcome.changed, merged)
        elif isinstance(outcome.model, nn.Module):
            same = low_rank_adapter.are_equal(terms, low_rank_adapter.read(source)) and is_same(
                outcome.model, Folder(source), stored
            )
            if same and not (outcome.config or outcome.stored or changes_more):
                return source
            if any(p.is_meta for p in outcome.model.parameters()):
                streaming.write(outcome.model, source, target, self.workspace.compute)
            else:
                save(outcome.model, target, dtype=stored)
        else:
            _move(Path(outcome.model), source, target, stored)
        if terms:
            low_rank_adapter.write(target, terms, family_of(self.source.config).transposed)
        if outcome.constants:
            constant_experts.write(target, outcome.constants, stored)
        else:
            constant_experts.copy(source, target)
        for name in CARRIED:
            found = find_file(source, name)
            if found:
                shutil.copyfile(found, target / name)
        # A model made elsewhere has its own config.
        if isinstance(outcome.model, Path) and (own := find_file(outcome.model, "config.json")):
            shutil.copyfile(own, target / "config.json")
        config = json.loads((target / "config.json").read_text())
        config.pop("torch_dtype", None)
        config |= {"dtype": dtype_name(stored), **changes}
        (target / "config.json").write_text(json.dumps(config, indent=2))
        return target


def _start_ranks(artifact: Artifact) -> contextlib.AbstractContextManager[object]:
    """Start the other processes that share the last stage, if there are any."""
    if artifact.ranks == 1:
        return contextlib.nullcontext()
    start = registry.load(registry.lookup("services", "ranks"))
    started: contextlib.AbstractContextManager[object] = start(artifact)
    return started


def _move(folder: Path, source: Path, target: Path, dtype: torch.dtype) -> None:
    """Move the weights that a method wrote to `target`, or convert them if some are in another
    format than `dtype`.

    Copy what is not in a folder of the job, such as the model of the user.
    """
    files = list(folder.glob("model*.safetensors*"))
    own = [(cache_dir() / part).resolve() for part in ("tmp", "training")]
    formats = {
        t.dtype
        for f in files
        if f.suffix == ".safetensors"
        for t in read_header(folder, f.name).values()
    }
    fits = formats & set(TORCH_DTYPES) <= {
        short for short, name in TORCH_DTYPES.items() if name == dtype_name(dtype)
    }
    place = target if fits else target.parent / "returned"
    place.mkdir(exist_ok=True)
    for file in files:
        is_own = any(file.resolve().is_relative_to(home) for home in own)
        if is_own:
            shutil.move(file, place / file.name)
        else:
            shutil.copyfile(file, place / file.name)
    if not fits:
        shutil.copyfile(source / "config.json", place / "config.json")
        written, writer = Folder(place), Writer(target, dtype=dtype)
        writer.add_folded(written, written.tensor, family_of(written.config))
        writer.close()
