"""What a plan's request comes to for one model: its shapes, texts and measures, each with a digest."""

from __future__ import annotations

import math
from dataclasses import asdict
from functools import cached_property
from typing import Any, Literal

from bench.catalog import registry
from bench.catalog.choice import Choice
from bench.inputs import corpora, models, tasks, training_text, windows
from bench.inputs.task_yaml import lm_eval_version, read_task
from bench.measures.speed.measure import measure_configs
from bench.measures.windowed import Windowed
from bench.planning import recipes
from bench.planning.artifact import CalibrationSet, TrainingRun
from bench.planning.resolve import PlanRequest, is_control
from bench.results.identity import Protocol
from bench.system import digests
from bench.system.devices import fingerprint
from bench.system.source_digest import digest_source
from methods.errors import UserError
from methods.pattern import Pattern
from methods.targets import family_of, find_targets, require_fit, weight_shape
from methods.training.settings import require_trainable

LOADER = "bench.inputs.loading"
"""Reads every model; by name, since importing it imports torch."""


class ModelInputs:
    """What a request's names come to for one model. Texts are looked at when a stage asks for them, once."""

    def __init__(self, request: PlanRequest, model: models.Model) -> None:
        """
        Raises:
            UserError: a pattern or group that does not divide a target's width, a training or a measure that cannot be.
        """
        self.request, self.model = request, model
        folder = model.open()
        self.config, self.shapes = folder.config, folder.shapes()
        targets = request.spec.targets
        self.targets = find_targets(self.config, self.shapes, targets.include, targets.exclude)
        self._tokenizer = model.folder / "tokenizer.json"
        if self._tokenizer.exists():
            windows.check_vocabulary(self._tokenizer, self.config["vocab_size"])
        self.measurements = [m for name in request.measures for m in self._measurements(name)]
        self.recipe = self._recipe() if request.trains else None
        self.training = self._training(self.recipe) if self.recipe else None
        for quantizer in request.quantizers:
            self._require_groups(quantizer)
        dense = Pattern.parse("dense")
        for pattern in [dense, *(request.patterns if not all(map(is_control, request.chains)) else ())]:
            require_fit(pattern, self.config, self.shapes, self.targets)

    @cached_property
    def loader(self) -> str:
        """Digest of the code that reads the model, and of its family's entry, which is data."""
        return digests.of([digest_source(LOADER), asdict(family_of(self.config))])

    @cached_property
    def calibration(self) -> CalibrationSet:
        spec, model = self.request.spec, self.model
        wanted = spec.calibration
        seqlen = wanted.seqlen or model.seqlen
        self._require_positions("calibration", seqlen)
        if self._tokenizer.exists() and (self.request.fetch or not corpora.lookup(wanted.data).hub):
            corpora.ensure(wanted.data, "calibration", spec.data_dir)
            windows.check_calibration(wanted.data, wanted.sequences, seqlen, self._tokenizer, spec.data_dir)
        return CalibrationSet(
            data=wanted.data,
            content=self._content(wanted.data, "calibration"),
            source=digest_source(windows.__name__),
            sequences=wanted.sequences,
            seqlen=seqlen,
            all_experts=wanted.all_experts and family_of(self.config).experts is not None,
            processes=wanted.processes,
        )

    def _recipe(self) -> recipes.Recipe:
        parameters = sum(math.prod(shape) for shape in self.shapes.values())
        return recipes.choose(parameters, self.request.device, self.request.spec.training.recipe)

    def _training(self, recipe: recipes.Recipe) -> TrainingRun:
        """
        Raises:
            UserError: no such text, or a budget below one step.
        """
        spec = self.request.spec
        wanted = spec.training
        require_trainable(self.request.dtype)
        training_text.check_name(wanted.data)
        run = TrainingRun(
            data=wanted.data,
            content=training_text.content_digest(wanted.data, spec.data_dir),
            source=digest_source(training_text.__name__),
            recipe=recipe.name,
            tokens=wanted.tokens or (None if wanted.recipe else self.model.quick.training_tokens) or recipe.tokens,
            batch=wanted.batch or recipe.batch,
            seqlen=wanted.seqlen or recipe.seqlen,
            micro=wanted.micro or recipe.micro,
        )
        self._require_positions("training", run.seqlen)
        if run.batch % wanted.processes:
            raise UserError(
                f"training.batch={run.batch} sequences cannot be divided among training.processes={wanted.processes}: "
                "use a batch that is a multiple of it"
            )
        if run.tokens < run.batch * run.seqlen:
            raise UserError(
                f"training.tokens={run.tokens} is less than one step of {run.batch} x {run.seqlen} tokens: "
                "raise it, or lower training.batch"
            )
        return run

    def _require_positions(self, use: str, seqlen: int) -> None:
        """A model with learned positions can read no further than they go.

        Raises:
            UserError: `seqlen` tokens go further.
        """
        key = family_of(self.config).positions
        if seqlen > (limit := self.config.get(key, seqlen)):
            raise UserError(
                f"{use}.seqlen={seqlen} is more than the {limit} positions of {self.model.name}: use at most that many"
            )

    def _require_groups(self, quantizer: Choice | None) -> None:
        """A group size that was typed must divide every target's input width.

        Raises:
            UserError: naming the first target whose width it does not.
        """
        group = quantizer.config.get("group") if quantizer else None
        if not quantizer or not isinstance(group, int):
            return
        for name in self.targets:
            _, width = weight_shape(self.config, self.shapes, name)
            if group < 1 or width % group:
                raise UserError(
                    f"{quantizer.label}: groups of {group} do not divide the {width} inputs of {name}: "
                    "use a size that does, or leave group= out"
                )

    def _measurements(self, measure: str) -> list[dict[str, Any]]:
        """Fields of a measure's measurements: one, of zeroshot one a task, of speed one a workload."""
        request = self.request
        if measure == "speed":
            configs = measure_configs(request.device, self._hardware())
            wanted = ("cuda", *request.spec.speed.workloads)
            return [_fields(measure, config, "") for config in configs if config["workload"] in wanted]
        if measure == "zeroshot":
            return [self._task(task, file) for task, file in tasks.expand(request.spec.tasks).items()]
        if _reads_windows(registry.load(registry.lookup("measures", measure))):
            return [self._windows(measure)]
        return [_fields(measure, {}, "")]

    def _hardware(self) -> str:
        hardware, *others = dict.fromkeys(map(fingerprint, self.request.devices))
        if others:
            raise UserError(
                f"speed cannot be measured on different cards in one run ({hardware} and {others[0]}): "
                "run once for each with --device"
            )
        return hardware

    def _windows(self, measure: str) -> dict[str, Any]:
        spec = self.request.spec
        wanted = spec.perplexity
        corpus, seqlen = wanted.data or self.model.data, wanted.seqlen or self.model.seqlen
        quick_tokens = self.model.quick.tokens
        count = _count(wanted.windows, max(1, quick_tokens // seqlen) if quick_tokens else None)
        config: dict[str, Any] = {"corpus": corpus, "seqlen": seqlen, "windows": count, "batch": wanted.batch}
        if wanted.split != "evaluation":
            config["split"] = wanted.split
        corpora.require_split(corpus, wanted.split)
        self._require_positions("perplexity", seqlen)
        content = self._content(corpus, wanted.split)
        if content:  # else the corpus is not here yet
            windows.check_windows(corpus, seqlen, count, self._tokenizer, spec.data_dir, wanted.split)
        return _fields(measure, config, content) | {"dense_states_gb": wanted.dense_states_gb}

    def _task(self, name: str, file: str) -> dict[str, Any]:
        spec = self.request.spec
        task = read_task(name, file)
        config: dict[str, Any] = {"task": name, "file": file, "version": task.version, "harness": lm_eval_version()}
        wanted = spec.zeroshot
        tokens = wanted.tokens or (1024 if self.request.device == "cpu" else 8192)
        config |= {"tokens": tokens, "batch": wanted.batch, "limit": _count(wanted.limit, self.model.quick.questions)}
        content = tasks.ensure(task, spec.data_dir) if self.request.fetch else tasks.data_digest(task, spec.data_dir)
        return _fields("zeroshot", config, content)

    def _content(self, corpus: str, use: str) -> str:
        """Digest of a text; empty where it is not here and may not be fetched."""
        data_dir = self.request.spec.data_dir
        if self.request.fetch or corpora.files(corpus, use, data_dir) or not corpora.lookup(corpus).hub:
            return corpora.ensure(corpus, use, data_dir)
        return ""


def _count(wanted: int | Literal["all"] | None, default: int | None) -> int | None:
    """Return a number of windows or questions. None means all of them."""
    return None if wanted == "all" else wanted or default


def _fields(measure: str, config: dict[str, Any], content: str) -> dict[str, Any]:
    entry = registry.lookup("measures", measure)
    kind = registry.load(entry)
    with registry.guarded(entry):
        protocol = kind(**config).protocol
    pass_code = (Windowed.__module__,) if _reads_windows(kind) else ()  # a plug-in's numbers come from it, too
    return {
        "measure": measure,
        "target": entry.target,
        "source": digest_source(entry.module, *pass_code),
        "config": config,
        "protocol": Protocol(name=protocol) if isinstance(protocol, str) else protocol,
        "content": content,
    }


def _reads_windows(measure: Any) -> bool:
    return isinstance(measure, type) and issubclass(measure, Windowed)
