"""Build an artifact stage by stage in the cache, check each stage, and read measures off the result."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Collection
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.catalog import choice, registry
from bench.inputs import loading, models, training_text, windows
from bench.measures.contract import Measure, MeasureContext
from bench.plan.artifact import Artifact, Measurement, Stage
from bench.results.record import Item, Record
from bench.run import ranks
from bench.run.job import BuiltArtifact, PhaseProgress, checkpoint_folder, fits_device, read_stored, resolve_environment
from bench.run.measure import rows_of
from bench.run.new_record import new_record
from bench.system import digests, provenance
from bench.system.cache import cache_dir, temporary_folder
from bench.system.files import atomic_write, publish
from bench.verify import Verdict, verify
from methods.contract import Budget, Compute, Job, Method, Outcome, Prior
from methods.folder import Folder, save, state
from methods.pattern import Pattern
from methods.quantizing.stored import ACTIVATIONS
from methods.targets import family_of, find_targets

CARRIED = ("config.json", "generation_config.json", "chat_template.jinja", *models.TOKENIZER_FILES)
"""What a pruned folder takes over from its source."""


class Builder:
    """Everything that happens to one artifact in its process."""

    def __init__(self, artifact: Artifact, events: PhaseProgress, rank: int = 0) -> None:
        torch.set_num_threads(max(1, artifact.threads // artifact.processes))
        self.events = events
        self.source = Folder(artifact.folder)
        self.targets = find_targets(self.source.config, self.source.shapes(), artifact.include, artifact.exclude)
        device = torch.device(ranks.device(artifact, rank))
        dtype: torch.dtype = getattr(torch, artifact.dtype)
        self.compute = Compute(
            device=device,
            dtype=dtype,
            threads=artifact.threads,
            stream=artifact.stream or not fits_device(self.source, device, dtype),
        )
        self._tokenizer: Any = None

    def tokenizer(self) -> Any:
        if self._tokenizer is None:
            self._tokenizer = loading.load_tokenizer(self.source.path)
        return self._tokenizer

    def build(self, artifact: Artifact) -> BuiltArtifact:
        """The artifact from the cache, or made now: all stages but the last first, each checked.

        Raises:
            Broken: a stage did not do what it promised.
            Exception: whatever its method raised.
        """
        home = cache_dir() / "artifacts" / artifact.key[:32]
        verdict = None
        if not (home / "artifact.json").exists():
            before = self._before(artifact)
            self.events.phase = artifact.stages[-1].label
            with temporary_folder(artifact.key[:8]) as room:
                verdict = self._apply(artifact, before, Path(room))
                publish(Path(room) / "artifact", home)
            shutil.rmtree(checkpoint_folder(artifact), ignore_errors=True)
        about = json.loads((home / "artifact.json").read_text())
        folder = self._folder(artifact, home, about["unchanged"])
        if (
            verdict is None or len(artifact.stages) > 1
        ):  # a stage was checked against its own input, not yet against dense
            verdict = self._verify(self.source.path, folder, artifact.stages[-1], about["changed"])
            verdict.zeros_lost = about.get("zeros_lost")  # of what its own input had masked
        return BuiltArtifact(folder, verdict, about["notes"], about["cost"], frozenset(about["changed"]))

    def _before(self, artifact: Artifact) -> BuiltArtifact | None:
        """What the last stage starts from; None where that is the model itself."""
        return self.build(artifact.up_to(len(artifact.stages) - 1)) if len(artifact.stages) > 1 else None

    def _folder(self, artifact: Artifact, home: Path, unchanged: bool) -> Path:
        """Where the weights lie. No path is kept: a model may move, and another may come to lie where it was."""
        if not unchanged:
            return home
        before = self._before(artifact)
        return before.folder if before else self.source.path

    def _verify(self, before: Path, after: Path, stage: Stage, changed: Collection[str]) -> Verdict:
        pattern, dtype = Pattern.parse(stage.pattern), self.compute.dtype
        counting = stage.kind == "quantizers"
        return verify(Folder(before), Folder(after), pattern, self.targets, changed, dtype, counting=counting)

    def _apply(self, artifact: Artifact, before: BuiltArtifact | None, room: Path) -> Verdict:
        """Run the last stage and leave its result, checked, in room/artifact."""
        stage = artifact.stages[-1]
        source, method, job = self._job(artifact, before, room)
        tokens = job.calibration
        model = loading.load(source, self.compute)
        torch.manual_seed(job.seed)
        started = time.monotonic()
        with ranks.start_ranks(artifact) if job.training else nullcontext():
            outcome = method.apply(model, job)
        cost = {
            "build_s": round(time.monotonic() - started, 3),
            "build_peak_bytes": provenance.peak_bytes(artifact.device),
            "calibration_tokens": tokens.numel() if tokens is not None else 0,
            "training_tokens": artifact.training.tokens if job.training and artifact.training else 0,
        }
        notes = dict(outcome.notes)
        if tokens is not None:
            notes["calibration_digest"] = windows.token_digest(tokens)
        made = room / "artifact"
        folder = self._keep(outcome, source, made)
        verdict = self._verify(source, folder, stage, outcome.changed)
        changed = outcome.changed | (before.changed if before else frozenset())
        about = {"unchanged": folder != made, "changed": sorted(changed), "notes": notes, "cost": cost}
        about["zeros_lost"] = verdict.zeros_lost
        with atomic_write(made / "artifact.json") as temporary:
            temporary.write_text(json.dumps(about | {"key_inputs": artifact.key_inputs()}, allow_nan=False))
        return verdict

    def help(self, artifact: Artifact) -> None:
        """Take part in the last stage as another rank than the first."""
        before = self._before(artifact)
        with temporary_folder(artifact.key[:8]) as room:
            source, method, job = self._job(artifact, before, Path(room))
            model = loading.load(source, self.compute)
            torch.manual_seed(job.seed)
            method.apply(model, job)

    def _job(self, artifact: Artifact, before: BuiltArtifact | None, room: Path) -> tuple[Path, Method, Job]:
        """What the last stage starts from, its method and all it may use."""
        stage = artifact.stages[-1]
        source = before.folder if before else self.source.path
        corpus, validation = self._training(artifact) if "training" in stage.needs else (None, None)
        course = artifact.training
        job = Job(
            source=source,
            pattern=Pattern.parse(stage.pattern),
            targets=self.targets,
            prior=self._prior(before) if before else None,
            environment=resolve_environment(artifact) if "isolated" in stage.needs else None,
            calibration=self._calibration(artifact) if "calibration" in stage.needs else None,
            training=corpus,
            validation=validation,
            budget=Budget(tokens=course.tokens, micro=course.micro) if course else Budget(),
            compute=self.compute,
            seed=artifact.seed or 0,
            workdir=checkpoint_folder(artifact) if corpus else room,
            progress=self.events,
            teacher=lambda: loading.load(self.source.path, self.compute),
        )
        method = choice.build(registry.lookup(stage.kind, stage.name), stage.name, stage.config)
        return source, method, job

    def _keep(self, outcome: Outcome, source: Path, made: Path) -> Path:
        """Write the model down; where nothing changed, its source will do."""
        made.mkdir(exist_ok=True)
        stored = read_stored(outcome.notes)
        activations = stored.activations if stored else None
        if isinstance(outcome.model, nn.Module):
            if not activations and _same(outcome.model, Folder(source)):
                return source
            save(outcome.model, made)
        else:
            for file in Path(outcome.model).glob("model*.safetensors*"):
                shutil.move(file, made / file.name)
        for name in CARRIED:
            if (source / name).exists():
                shutil.copyfile(source / name, made / name)
        config = json.loads((made / "config.json").read_text())
        config.pop("torch_dtype", None)
        config |= {"dtype": str(self.compute.dtype)[6:]}
        if activations:
            config |= {ACTIVATIONS: {"bits": activations, "targets": list(self.targets)}}
        (made / "config.json").write_text(json.dumps(config, indent=2))
        return made

    def _calibration(self, artifact: Artifact) -> Tensor:
        recipe = artifact.calibration
        assert recipe is not None
        encode = self.tokenizer()
        crops = windows.draw_calibration(
            recipe.data,
            recipe.sequences,
            recipe.seqlen,
            artifact.seed or 0,
            lambda t: list(encode(t)["input_ids"]),
            artifact.data_dir,
        )
        return torch.tensor(crops)

    def _training(self, artifact: Artifact) -> tuple[training_text.Packed, Tensor]:
        course = artifact.training
        assert course is not None
        corpus, held = training_text.load(
            course.data,
            self.tokenizer(),
            digests.of([course.content, artifact.tokenizer]),
            need=course.tokens,
            seqlen=course.seqlen,
            sequences=course.batch,
            seed=artifact.seed or 0,
            data_dir=artifact.data_dir,
        )
        return corpus, torch.from_numpy(held)

    def _prior(self, before: BuiltArtifact) -> Prior:
        folder = Folder(before.folder)
        kept = {t: folder.tensor(t + ".weight") != 0 for t in self.targets}
        flip = family_of(folder.config).transposed
        return Prior(folder=before.folder, masks={t: m.T if flip else m for t, m in kept.items()})

    def measure(self, cell: Measurement, built: BuiltArtifact) -> tuple[Record, tuple[Item, ...]]:
        """Read one measure off a built artifact."""
        measure: Measure = registry.load(registry.lookup("measures", cell.measure))(**cell.config)
        compute = self.compute if getattr(measure, "streams", False) else self._whole()
        with temporary_folder("measure") as room:
            rig = MeasureContext(
                folder=built.folder,
                source=self.source.path,
                dense=built.folder == self.source.path,
                tokenizer=self.tokenizer,
                reference=lambda: loading.load(self.source.path, compute),
                verdict=built.verdict,
                stored=read_stored(built.notes),
                compute=compute,
                data_dir=cell.artifact.data_dir,
                workdir=Path(room),
                progress=self.events,
                seed=cell.artifact.seed,
            )
            readings = measure.read(lambda: loading.load(built.folder, compute), rig)
        finite = all(math.isfinite(r.value) for r in readings.values)
        notes = dict(readings.notes)
        cost: dict[str, Any] = {"peak_bytes": provenance.peak_bytes(cell.artifact.device), "tokens": readings.tokens}
        if cell.measure == "pattern":  # the one cell every artifact has carries its making
            notes |= built.notes
            cost |= built.cost
        record = new_record(
            cell,
            status="ok" if finite else "diverged",
            reason=""
            if finite
            else ", ".join(f"{r.metric} is {r.value}" for r in readings.values if not math.isfinite(r.value)),
            readings=rows_of(readings),
            token_digest=readings.token_digest,
            notes=notes,
            cost=cost,
            provenance=provenance.gather(),
        )
        return record, readings.items if finite else ()

    def _whole(self) -> Compute:
        return Compute(device=self.compute.device, dtype=self.compute.dtype, threads=self.compute.threads)


def _same(model: nn.Module, folder: Folder) -> bool:
    tensors = state(model)
    return set(tensors) == set(folder) and all(
        t.is_meta or (t.dtype == (was := folder.tensor(n)).dtype and torch.equal(t.cpu(), was))  # meta: never brought
        for n, t in tensors.items()
    )
