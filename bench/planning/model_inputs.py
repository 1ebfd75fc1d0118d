"""Inputs of a run for one model, each with its digest: shapes, texts, recipe and measurements."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.catalog import registry
from bench.catalog.choice import build
from bench.catalog.code import measure_digest
from bench.formats.differences import inspect
from bench.inputs import corpora, models, training_text, windows
from bench.inputs.bos import Bos, begins_with_bos, count_first, first_tokens, resolve_bos
from bench.inputs.shapes import open_shapes
from bench.measures.contract import PlanContext, Planned
from bench.planning import recipes
from bench.planning.artifact import CalibrationSet, Stage, TrainingRun
from bench.planning.chain import MethodStages
from bench.planning.resolve import PlanRequest
from bench.planning.sizes import count_sizes
from bench.results.identity import Protocol
from bench.system import digests
from bench.system.devices import has_instructions_for
from bench.system.source_digest import digest_source
from methods.errors import UserError
from methods.info import Does
from methods.pattern import Pattern
from methods.smaller import count_left
from methods.targets import family_of, find_targets, require_flow
from methods.training.settings import require_trainable

LOADER = "bench.inputs.loading"
"""Name of the module that reads every model. Importing it would import torch."""
LEARNING_RATES = {"lr", "relative_lr"}
"""Names of the fields for the learning rate. If the user sets one of them, no recipe sets the other."""


class ModelInputs:
    """Inputs of a request for one model. Calibration text is read only if a stage needs it."""

    def __init__(self, request: PlanRequest, model: models.Model) -> None:
        """Raise UserError if a pattern or group does not divide a layer, or a training or measure is impossible."""
        self.request, self.model = request, model
        folder = open_shapes(model.folder)
        self.config = folder.config
        patterns = () if all(chain.pattern for chain in request.chains) else request.patterns
        every = [stage for chain in request.chains for stage in chain.stages]
        stages = [stage for stage in every if Does.KEEPS_FUNCTION in stage.entry.does]  # another's group may be any
        stages += [stage for stage in request.quantizers if stage]
        groups = {stage.label: stage.config.get("group") for stage in stages}
        self.linears = find_targets(self.config, folder.shapes())
        """All linears of the model that can be pruned."""
        self.sizes = count_sizes(folder, request.spec.targets, patterns, groups)
        self.family = family_of(self.config)
        self.dtype = self._dtype(folder.dtype)
        tokenizer_json = model.folder / "tokenizer.json"
        if tokenizer_json.exists():
            windows.check_vocabulary(tokenizer_json, self.config["vocab_size"])
        self.context = PlanContext(
            run=request.spec,
            fetch=request.fetch,
            devices=request.devices,
            model=model.name,
            tokenizer_json=tokenizer_json,
            corpus=model.data,
            seqlen=model.seqlen,
            quick_tokens=model.quick.tokens,
            quick_questions=model.quick.questions,
            positions=self.config.get(self.family.positions),
            bos=self._bos(tokenizer_json),
        )
        self.measurements = [m for name in request.measures for m in self._measurements(name)]
        named = request.spec.training.recipe
        self.recipe = recipes.choose(self.sizes.parameters, request.device, named) if request.trains else None
        self.training = self._training(self.recipe) if self.recipe else None

    @cached_property
    def loader(self) -> str:
        """Digest of the code that reads the model, and of its family's entry, which is data."""
        return digests.of([digest_source(LOADER), asdict(self.family)])

    @cached_property
    def calibration(self) -> CalibrationSet:
        wanted, data_dir, fetch = self.request.spec.calibration, self.request.spec.data_dir, self.request.fetch
        seqlen, tokenizer_json = wanted.seqlen or self.model.seqlen, self.context.tokenizer_json
        self.context.require_positions("calibration", seqlen)
        self.context.require_text(wanted.data)
        content = corpora.digest(wanted.data, "calibration", data_dir, fetch=fetch)
        first = count_first(self.context.bos)
        if tokenizer_json.exists() and (fetch or not corpora.lookup(wanted.data).hub):
            windows.check_calibration(wanted.data, wanted.sequences, seqlen, tokenizer_json, data_dir, first)
        return CalibrationSet(
            data=wanted.data,
            content=content,
            source=digest_source(windows.__name__),
            sequences=wanted.sequences,
            seqlen=seqlen,
            all_experts=wanted.all_experts and self.family.experts is not None,
            processes=wanted.processes,
            bos=self.context.bos,
        )

    def _bos(self, tokenizer_json: Path) -> Bos:
        """Return the rule for BOS as far as it changes this model's tokens. Refuse a tokenizer that lacks a required BOS."""
        rule = self.request.spec.bos
        known = tokenizer_json.exists()
        with windows.tokenizer_faults(tokenizer_json):
            adds = known and begins_with_bos(windows.read_tokenizer(tokenizer_json))
        if adds or (known and rule != "always"):
            return resolve_bos(rule, adds=adds)
        if not any((self.model.folder / name).exists() for name in models.TOKENIZER_FILES):
            return ""  # what reads text is refused, and other measures need no tokenizer
        from bench.inputs.loading import load_tokenizer  # imports torch

        tokenizer = load_tokenizer(self.model.folder)
        bos = resolve_bos(rule, adds=not known and begins_with_bos(tokenizer.backend_tokenizer))
        first_tokens(tokenizer, bos)
        return bos

    def _dtype(self, stored: str) -> str:
        """Return the number format of the artifacts. stored: that of the model's files."""
        if self.request.spec.dtype != "auto":
            return self.request.spec.dtype
        # On a CPU the arithmetic is in float32, so float16 loses no gradient there.
        loses_gradients = stored == "float16" and self.request.trains and self.request.device != "cpu"
        return "bfloat16" if loses_gradients else stored

    @property
    def arithmetic(self) -> str:
        """Number format of the arithmetic, or "" for that of the weights."""
        wanted, on_cpu = self.request.spec, self.request.device == "cpu"
        is_slow = wanted.dtype == "auto" and on_cpu and not has_instructions_for(self.dtype)
        in_float32 = wanted.arithmetic == "float32" or (wanted.arithmetic == "auto" and is_slow)
        return "float32" if in_float32 and self.dtype != "float32" else ""

    def variants(self, chain: MethodStages) -> Iterable[tuple[Stage | None, str]]:
        """Return each quantizer of a method with each pattern.

        A model made elsewhere has the pattern found in it, and no quantizer if it is quantized already. Refuse a run of
        quantizers only in that case.
        """
        quantizers, patterns = self.request.quantizers, tuple(map(str, self.request.patterns))
        if stage := chain.elsewhere:
            targets = self.request.spec.targets
            found = inspect(Path(stage.config["path"]), self.model.open(), targets.include, targets.exclude)
            patterns = (found.pattern,)
            if found.is_quantized and None not in quantizers:
                raise UserError(f"{stage.label} is quantized already ({found.form}): add none to --quant")
            quantizers = (None,) if found.is_quantized else quantizers
        elif chain.pattern:
            patterns = (chain.pattern,)
        return itertools.product(quantizers, patterns)

    def complete(self, stage: Stage, pattern: str) -> Stage:
        """Return a stage with its pattern, and with the recipe's fields that the user did not set."""
        pattern = pattern + stage.pattern if stage.pattern.startswith(" + ") else stage.pattern or pattern
        link = stage.link
        count_left(link.shares, self.config, link.options)
        if Does.KEEPS_FUNCTION in link.info.does:
            require_flow(self.config, stage.name, fold=link.folds)
        fields = self.recipe.fields_of(stage.name) if self.recipe and "training" in stage.needs else {}
        if stage.config.keys() & LEARNING_RATES:
            fields = {name: value for name, value in fields.items() if name not in LEARNING_RATES}
        return stage.model_copy(update={"pattern": pattern, "config": fields | stage.config})

    def require_settings_file(self, stage: Stage) -> None:
        """Raise UserError if a stage reads its settings from a file that does not fit the model.

        Its class has a method `read(pattern, targets)`, as in bench.quantizers.allocated, or the file is not checked here.
        """
        entry = stage.entry
        if not entry.file or not entry.file.required or Does.IMPORTS in entry.does:
            return
        with registry.guarded(entry):
            if read := getattr(build(entry, stage.name, stage.config), "read", None):
                wanted, targets = self.request.spec.targets, None
                others = [s.entry.does for chain in self.request.chains for s in chain.stages]
                # The file may be for what a method leaves of the model.
                if not any(does & (Does.REMOVES | Does.IMPORTS) for does in others):
                    shapes = open_shapes(self.model.folder).shapes()
                    targets = find_targets(self.config, shapes, wanted.include, wanted.exclude)
                read(Pattern.parse(stage.pattern), targets)

    def _training(self, recipe: recipes.Recipe) -> TrainingRun:
        """Return the training, or raise UserError if the text does not exist or the budget is below one step."""
        wanted, data_dir = self.request.spec.training, self.request.spec.data_dir
        require_trainable(self.arithmetic or self.dtype)
        self.context.require_text(wanted.data)
        run = TrainingRun(
            data=wanted.data,
            content=training_text.content_digest(wanted.data, data_dir),
            source=digest_source(training_text.__name__),
            recipe="" if recipe is recipes.for_size(self.sizes.parameters, self.request.device) else recipe.name,
            tokens=wanted.tokens or (None if wanted.recipe else self.model.quick.training_tokens) or recipe.tokens,
            batch=wanted.batch or recipe.batch,
            seqlen=wanted.seqlen or recipe.seqlen,
            micro=wanted.micro or recipe.micro,
            bos=self.context.bos,
        )
        self.context.require_positions("training", run.seqlen)
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

    def _measurements(self, measure: str) -> Iterator[dict[str, Any]]:
        """Yield the fields of each measurement that a measure plans."""
        entry = registry.lookup("measures", measure)
        kind = registry.load(entry)
        with registry.guarded(entry):
            planned = kind.plan(self.context) if hasattr(kind, "plan") else (Planned(),)
            planned = [(p, _protocol(kind(**p.config).protocol)) for p in planned]
        for (config, content, options), protocol in planned:
            yield {
                "measure": measure,
                "target": entry.target,
                "source": measure_digest(entry),
                "config": config,
                "protocol": protocol,
                "content": content,
                "options": options,
                "imports": getattr(kind, "imports", ()),
            }


def _protocol(declared: Any) -> Protocol:
    """Return a measure's protocol. Raise TypeError if its class declares none."""
    if isinstance(declared, str):
        return Protocol(name=declared)
    if not isinstance(declared, Protocol):
        raise TypeError(
            f"protocol is a {type(declared).__name__}: make it a property that returns a Protocol or a text"
        )
    return declared
