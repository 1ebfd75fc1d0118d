"""Inputs of a run for one model, each with its digest, and the artifacts that are made of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any

from bench.catalog import registry
from bench.catalog.choice import KEPT, build
from bench.catalog.code import measure_digest
from bench.inputs import corpora, own_text, tracks, training_text, windows
from bench.inputs.bos import Bos, begins_with_bos, count_first, first_tokens, resolve_bos
from bench.inputs.mixtures import shares_of
from bench.inputs.model_facts import ModelFacts
from bench.inputs.shared_text import count_shared
from bench.measures.contract import PlanContext, Planned
from bench.planning import recipes
from bench.planning.artifact import Artifact, CalibrationSet, Stage, TrainingRun
from bench.planning.chain import MethodStages
from bench.planning.resolve import PlanRequest
from bench.planning.sizes import count_sizes
from bench.results.identity import Protocol
from bench.system import digests
from bench.system.devices import has_instructions_for
from bench.system.source_digest import digest_source
from methods.contract.errors import UserError
from methods.contract.info import Does
from methods.contract.pattern import Pattern
from methods.model.folder import TIED
from methods.model.smaller_folder import count_left
from methods.model.targets import require_fit, require_flow, select_targets
from methods.workshop.training.settings import require_trainable

LOADER = "bench.inputs.loading"
"""Name of the module that reads every model. Importing it would import torch."""
LEARNING_RATES = {"lr", "relative_lr"}
"""Names of the fields for the learning rate. If the user sets one of them, no recipe sets the
other."""


class ModelInputs:
    """Inputs of a request for one model. Calibration text is read only if a stage needs it."""

    def __init__(self, request: PlanRequest, facts: ModelFacts) -> None:
        """Raise UserError if a pattern or group does not divide a layer, or a training or measure
        is impossible."""
        self.request, self.facts, self.spec = request, facts, request.spec
        wanted = self.spec.targets
        self.targets = select_targets(facts.linears, wanted.include, wanted.exclude)
        self._require_widths()
        self.sizes = count_sizes(facts, self.targets)
        self.dtype = self._choose_dtype()
        facts.tokenizer.require_fit(facts.config["vocab_size"])
        self.context = PlanContext(
            run=self.spec,
            fetch=request.fetch,
            devices=request.devices,
            facts=facts,
            bos=self._choose_bos(),
        )
        self.measurements: list[dict[str, Any]] = []
        for name in request.measures:
            self.measurements += self._measurements(name)
        self.training = self.recipe = None
        if request.trains:
            named = self.spec.training.recipe
            self.recipe = recipes.choose(self.sizes.parameters, request.device, named)
            self.training = self._training(self.recipe)

    def _require_widths(self) -> None:
        """Raise UserError if a pattern or a group size does not divide a target."""
        request, shapes = self.request, self.facts.shapes
        if not all(chain.pattern for chain in request.chains):
            for pattern in request.patterns:
                require_fit(pattern, shapes, self.targets)
        groups: dict[str, Any] = {}
        for chain in request.chains:
            for stage in chain.stages:
                # Another method may have groups of any size.
                if Does.KEEPS_FUNCTION in stage.entry.does:
                    groups[stage.label] = stage.config.get("group")
        for quantizer in request.quantizers:
            if quantizer:
                groups[quantizer.label] = quantizer.config.get("group")
        numbers = {label: group for label, group in groups.items() if isinstance(group, int)}
        for label, group in numbers.items():
            for name in self.targets:
                width = shapes[f"{name}.weight"][1]
                if group < 1 or width % group:
                    raise UserError(
                        f"{label}: groups of {group} do not divide the {width} inputs of {name}: "
                        "use a size that does, or leave group= out"
                    )

    def _choose_dtype(self) -> str:
        """Return the number format of the artifacts."""
        if self.spec.dtype != "auto":
            return self.spec.dtype
        # On a CPU the arithmetic is in float32, so float16 loses no gradient there.
        stored, on_gpu = self.facts.dtype, self.request.device != "cpu"
        if stored == "float16" and self.request.trains and on_gpu:
            return "bfloat16"
        return stored

    @cached_property
    def arithmetic(self) -> str:
        """Number format of the arithmetic, or "" for that of the weights."""
        if self.dtype == "float32" or self.spec.arithmetic == "dtype":
            return ""
        if self.spec.arithmetic == "float32":
            return "float32"
        is_given = self.spec.dtype != "auto" or self.request.device != "cpu"
        return "" if is_given or has_instructions_for(self.dtype) else "float32"

    def _choose_bos(self) -> Bos:
        """Return the rule for BOS as far as it changes this model's tokens.

        Raise UserError if the tokenizer lacks a required BOS.
        """
        rule, known = self.spec.bos, self.facts.tokenizer
        if known.begins_with_bos:
            return resolve_bos(rule, adds=True)
        if known.exists and rule != "always":
            return resolve_bos(rule, adds=False)
        if not self.facts.has_tokenizer:
            return ""  # what reads text is refused, and other measures need no tokenizer
        from bench.inputs.loading import load_tokenizer  # imports torch

        tokenizer = load_tokenizer(self.facts.folder)
        adds = not known.exists and begins_with_bos(tokenizer.backend_tokenizer)
        bos = resolve_bos(rule, adds=adds)
        first_tokens(tokenizer, bos)
        return bos

    @cached_property
    def loader(self) -> str:
        """Digest of the code that reads the model, and of its family's entry, which is data."""
        return digests.of([digest_source(LOADER), asdict(self.facts.family)])

    @cached_property
    def calibrations(self) -> tuple[CalibrationSet, ...]:
        """A calibration for each text of the run."""
        return tuple(map(self._calibration, self.spec.calibration.data))

    def _calibration(self, name: str) -> CalibrationSet:
        wanted, data_dir, fetch = self.spec.calibration, self.spec.data_dir, self.request.fetch
        seqlen, tokenizer = wanted.seqlen or self.facts.seqlen, self.facts.tokenizer
        self.context.require_positions("calibration", seqlen)
        for part in shares_of(name):
            corpora.require_split(part, "calibration")
            self.context.require_text(part)
            self._require_unshared(part)
        content = corpora.digest(name, "calibration", data_dir, fetch=fetch)
        if tokenizer.exists and content:
            first = count_first(self.context.bos)
            windows.check_calibration(
                name, wanted.sequences, seqlen, tokenizer, data_dir, first, wanted.packing
            )
        return CalibrationSet(
            data=name,
            content=content,
            source=digest_source(windows.__name__),
            sequences=wanted.sequences,
            seqlen=seqlen,
            all_experts=wanted.all_experts and self.facts.family.experts is not None,
            processes=wanted.processes,
            bos=self.context.bos,
            packing="" if wanted.packing == "crops" else wanted.packing,
        )

    def _require_unshared(self, name: str) -> None:
        """Raise UserError if a user's text has test questions of the tracks that the run reads."""
        tasks = tuple(tracks.expand(self.spec.tasks))
        own = own_text.parse(name)
        if not own or not tasks or "answers" not in self.request.measures:
            return
        texts = partial(own_text.read, own)
        shared = count_shared(name, texts, self.spec.data_dir, tasks)
        if shared:
            found = ", ".join(f"{track} ({number})" for track, number in shared.items())
            raise UserError(
                f"{name} has passages of 13 words from test questions: {found}. Leave them out of "
                "the text, or these tracks out of --tasks"
            )

    def _training(self, recipe: recipes.Recipe) -> TrainingRun:
        """Return the training. Raise UserError without its text, or for less than one step."""
        wanted = self.spec.training
        require_trainable(self.arithmetic or self.dtype)
        for part in shares_of(wanted.data):
            self.context.require_text(part)
            self._require_unshared(part)
        usual = recipes.for_size(self.sizes.parameters, self.request.device)
        tokens = wanted.tokens
        if tokens is None and not wanted.recipe:
            tokens = self.facts.quick.training_tokens
        run = TrainingRun(
            data=wanted.data,
            content=training_text.content_digest(wanted.data, self.spec.data_dir),
            source=digest_source(training_text.__name__),
            recipe="" if recipe is usual else recipe.name,
            tokens=tokens or recipe.tokens,
            batch=wanted.batch or recipe.batch,
            seqlen=wanted.seqlen or recipe.seqlen,
            micro=wanted.micro or recipe.micro,
            bos=self.context.bos,
        )
        self.context.require_positions("training", run.seqlen)
        if run.batch % wanted.processes:
            raise UserError(
                f"training.batch={run.batch} sequences cannot be divided among "
                f"training.processes={wanted.processes}: use a batch that is a multiple of it"
            )
        if run.tokens < run.batch * run.seqlen:
            raise UserError(
                f"training.tokens={run.tokens} is less than one step of {run.batch} x "
                f"{run.seqlen} tokens: raise it, or lower training.batch"
            )
        return run

    def artifacts(self) -> Iterator[Artifact]:
        """Yield an artifact for every method, quantizer, pattern and seed.

        Some methods have one pattern only.
        """
        for index, method in enumerate(self.request.chains):
            quantizers, patterns = self._variants(method)
            if index == 0 and None not in quantizers and self._shows_a_loss():
                quantizers = (None, *quantizers)
            for quantizer in quantizers:
                chains = self.request.chains
                if quantizer:
                    chains = self.request.transformed.get(quantizer.label, chains)
                for pattern in patterns:
                    yield from self._artifacts(chains[index], quantizer, pattern)

    def _shows_a_loss(self) -> bool:
        """Return whether some measure compares quality with the dense model, which is then
        measured without a quantizer, too."""
        for name in self.request.measures:
            if any(metric.quality for metric in registry.lookup("measures", name).metrics):
                return True
        return False

    def _variants(self, chain: MethodStages) -> tuple[tuple[Stage | None, ...], tuple[str, ...]]:
        """Return the quantizers and the patterns of a method.

        A model made elsewhere has the pattern found in it, and no quantizer if it is quantized
        already. Refuse a run of quantizers only in that case.
        """
        quantizers = self.request.quantizers
        stage = chain.elsewhere
        if stage:
            globs = self.spec.targets
            path, content = Path(stage.config["path"]), stage.config["sha256"]
            inspect = registry.load(registry.lookup("services", "folder_inspection"))
            found = inspect(path, content, self.facts, globs.include, globs.exclude)
            if not found.is_quantized:
                return quantizers, (found.pattern,)
            if None not in quantizers:
                raise UserError(
                    f"{stage.label} is quantized already ({found.form}): add none to --quant"
                )
            return (None,), (found.pattern,)
        if chain.pattern:
            return quantizers, (chain.pattern,)
        return quantizers, tuple(map(str, self.request.patterns))

    def _require_head(self, quantizer: Stage, before: Sequence[Stage]) -> None:
        """Raise UserError for a format of the head, if that is the embedding. A transform may give
        the head its own tensor."""
        embed, head = quantizer.outer.get("embed"), quantizer.outer.get("head")
        has_head = not self.facts.shapes.keys().isdisjoint(TIED)
        if embed == head or has_head or any(Does.KEEPS_FUNCTION in s.entry.does for s in before):
            return
        raise UserError(
            f"{self.facts.name} has no head but its embedding: leave "
            f"head={head.name if head else KEPT} out of {quantizer.label}"
        )

    def _artifacts(
        self, chain: MethodStages, quantizer: Stage | None, pattern: str
    ) -> Iterator[Artifact]:
        """Yield the artifacts of a chain: one for each seed if a stage is random."""
        spec, facts = self.spec, self.facts
        stages = [self._complete(stage, pattern) for stage in chain.stages]
        if quantizer:
            self._require_head(quantizer, stages)
            last = quantizer.model_copy(update={"pattern": chain.beside})
            stages.append(self._complete(last, pattern))
        self._require_settings_file(stages[-1])
        needs = {need for stage in stages for need in stage.needs}
        calibrations: tuple[CalibrationSet | None, ...] = (None,)
        if "calibration" in needs:
            calibrations = self.calibrations
        training, processes, nodes = None, 1, 1
        if "training" in needs:
            training = self.training
            processes, nodes = spec.training.processes, spec.training.nodes
        seeds: tuple[int | None, ...] = (None,)
        if any(stage.random for stage in stages):
            seeds = spec.seeds
        for calibration, seed in product(calibrations, seeds):
            yield Artifact(
                model=facts.name,
                family=facts.config["model_type"],
                sizes=self.sizes,
                folder=facts.folder,
                data_dir=spec.data_dir,
                digest=facts.digest,
                tokenizer=facts.tokenizer_digest,
                companions=facts.companions_digest,
                revision=facts.revision,
                terms=facts.terms,
                loader=self.loader,
                stages=tuple(stages),
                calibration=calibration,
                training=training,
                processes=processes,
                nodes=nodes,
                include=spec.targets.include,
                exclude=spec.targets.exclude,
                seed=seed,
                dtype=self.dtype,
                arithmetic=self.arithmetic,
                device=self.request.device,
                threads=self.request.threads,
                stream=spec.stream,
                max_memory=spec.max_memory,
                checkpoint_s=spec.training.checkpoint_s,
            )

    def _complete(self, stage: Stage, pattern: str) -> Stage:
        """Return a stage with its pattern, and with the recipe's fields that the user did not
        set."""
        if stage.pattern.startswith(" + "):
            pattern += stage.pattern
        elif stage.pattern:
            pattern = stage.pattern
        link = stage.link
        count_left(link.shares, self.facts.config, link.options)
        if Does.KEEPS_FUNCTION in link.info.does:
            require_flow(self.facts.config, stage.name, fold=link.folds)
        fields: dict[str, Any] = {}
        if self.recipe and "training" in stage.needs:
            fields = self.recipe.fields_of(stage.name)
        if stage.config.keys() & LEARNING_RATES:
            fields = {name: value for name, value in fields.items() if name not in LEARNING_RATES}
        return stage.model_copy(update={"pattern": pattern, "config": fields | stage.config})

    def _require_settings_file(self, stage: Stage) -> None:
        """Raise UserError if a stage reads its settings from a file that does not fit the model.

        Its class has a method `read(pattern, targets)`, as the quantizer `allocated` has. Without
        one, the file is not checked here.
        """
        entry = stage.entry
        if not entry.file or not entry.file.required or Does.IMPORTS in entry.does:
            return
        with registry.guarded(entry):
            read = getattr(build(entry, stage.name, stage.config), "read", None)
            if read:
                # The file may be for what a method leaves of the model.
                targets = None if self._changes_targets else self.targets
                read(Pattern.parse(stage.pattern), targets)

    @cached_property
    def _changes_targets(self) -> bool:
        """True if a method removes parts of the model, or takes a model of another tool."""
        for chain in self.request.chains:
            if any(stage.entry.does & (Does.REMOVES | Does.IMPORTS) for stage in chain.stages):
                return True
        return False

    def _measurements(self, measure: str) -> Iterator[dict[str, Any]]:
        """Yield the fields of each measurement that a measure plans."""
        entry = registry.lookup("measures", measure)
        kind = registry.load(entry)
        with registry.guarded(entry):
            planned = list(kind.plan(self.context)) if hasattr(kind, "plan") else [Planned()]
            protocols = [_protocol(kind(**each.config).protocol) for each in planned]
        for (config, content, options), protocol in zip(planned, protocols, strict=True):
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
            f"protocol is a {type(declared).__name__}: make it a property that returns a Protocol "
            "or a text"
        )
    return declared
