"""Prune one model into a new folder, with a model card."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from bench.execution import progress
from bench.execution.forecast import Pace
from bench.execution.listener import Listeners, RunListener, RunningArtifact, TimeLeft
from bench.execution.nodes import require_lead
from bench.execution.signals import checkpoint_first
from bench.execution.worker_process import CHECKPOINT_S
from bench.planning import plan
from bench.planning.artifact import Artifact
from bench.planning.refusal import find_problem
from bench.planning.spec import Spec
from bench.system import provenance
from bench.system.cache import in_use, sweep_leftovers
from bench.system.files import atomic_folder, require_folder
from bench.system.limits import require_limits
from bench.system.text import amount
from methods import adapter
from methods.errors import Skipped, UserError
from methods.files import find_file
from methods.quantizing.stored import STORED_KEY


class _DisplayedProgress:
    """A builder's progress as events for a display."""

    def __init__(self, display: RunListener, running: RunningArtifact) -> None:
        self.phase, self._display, self._running, self._pace = "", display, running, Pace()

    def advance(self, done: int, total: int, **figures: float) -> None:
        event = {"event": "progress", "phase": self.phase, "done": done, "total": total, "figures": figures}
        left = TimeLeft(phase=self._pace.advance(self.phase, done, total))
        self._display.take(self._running, event, left)

    def enter(self, state: str) -> None:
        self._display.take(self._running, {"event": "state", "phase": self.phase, "state": state}, TimeLeft())


def write_pruned(spec: Spec, out: Path) -> str:
    """Write the artifact of a spec with one method, model and pattern to `out`, and return a sentence about it.

    Raises:
        UserError: there is more than one of them, or `out` exists.
        CheckFailed: the method broke the pattern, or changed what it must not.
    """
    if any(len(x) != 1 for x in (spec.methods, spec.models, spec.patterns, spec.quantizers)):
        raise UserError("bench prune takes one method, one model, one pattern and one quantizer; bench run takes many")
    require_limits()
    require_folder(out, new=True)
    require_lead(spec.training.nodes, os.environ)
    sweep_leftovers()
    with in_use():
        *_, chosen = (
            plan.make_plan(spec.model_copy(update={"shard": None}), fetch=True).artifacts().values()
        )  # the dense model comes first
        artifact = chosen[0].artifact
        require_limits([artifact.folder])
        if problem := find_problem(artifact):
            raise UserError(problem)
        with in_use(*artifact.cache_names):
            return _write(RunningArtifact(chosen, artifact.label, artifact.device), out)


def _write(running: RunningArtifact, out: Path) -> str:
    from bench.execution.build import Builder

    artifact = running.artifact
    try:
        with Listeners(progress.display_for(sys.stderr)) as display, checkpoint_first(CHECKPOINT_S):
            display.begin(1, 0)
            display.start(running, TimeLeft())
            built = Builder(artifact, _DisplayedProgress(display, running)).build(artifact)
    except Skipped as fault:
        raise UserError(f"{artifact.stage_labels} cannot run here: {fault}") from None
    counts = built.counts
    zeros = sum(x.zeros for x in counts.layers.values()) / max(1, sum(x.weights for x in counts.layers.values()))
    with atomic_folder(out) as folder:
        for file in built.folder.iterdir():
            if not file.is_dir() and file.name not in ("artifact.json", "PULLED.json", "TRAINING.json", "README.md"):
                find_file(built.folder, file.name, None)
                shutil.copyfile(file, folder / file.name)
        adapter.copy(built.folder, folder)
        (folder / "README.md").write_text(_card(artifact, zeros, built.notes))
    check = f"pattern violated by {amount(counts.violations, 'group')}" if counts.violations else "pattern checked"
    validation = built.notes.get("validation_perplexity", {})
    return (
        f"{out}: {artifact.model} by {artifact.stage_labels}, {artifact.pattern}, "
        f"{zeros:.1%} of {len(counts.layers)} linears zero, {check}"
        + "".join(f"; perplexity on held-out text {k.replace('_', ' ')} {v:.4g}" for k, v in validation.items())
    )


def _card(artifact: Artifact, zeros: float, notes: Any) -> str:
    versions, calibration, training = provenance.versions(), artifact.calibration, artifact.training
    revision = f" (revision {artifact.revision})" if artifact.revision else ""
    day = time.strftime("%Y-%m-%d", time.gmtime())
    lines = [
        f"# {Path(artifact.model).name}, {artifact.pattern} by {artifact.stage_labels}",
        "",
        f"Made from `{artifact.model}`{revision} by cast-bench {versions['cast-bench']} on {day}.",
        "",
        f"- pattern: {artifact.pattern}; {zeros:.2%} of the pruned linears' weights are zero, stored dense",
        f"- method: {artifact.method}, code {artifact.pruner.source[:12]}",
    ]
    if artifact.quantizer != "none":
        lines.append(f"- quantizer: {artifact.quantizer}, its weights stored dequantized")
        if notes.get(STORED_KEY, {}).get("activations"):
            lines[-1] += (
                "; the linears' inputs are rounded, too, when cast-bench loads this folder, and not when transformers does"
            )
    lines.append("- calibration: none")
    if calibration:
        text = f"{calibration.sequences} x {calibration.seqlen} tokens of {calibration.data}"
        lines[-1] = f"- calibration: {text}, seed {artifact.seed}"
    if training:
        text = f"{training.tokens:,} tokens of {training.data} in steps of {training.batch} x {training.seqlen}"
        lines.append(f"- training: {text}, seed {artifact.seed}, {json.dumps(artifact.pruner.config)}")
    if artifact.terms:
        lines.append(f"- terms of the source: {artifact.terms}")
    lines += [
        f"- source weights: sha256 {artifact.digest}",
        f"- dtype {artifact.dtype}, arithmetic in {artifact.computed_in}, torch {versions['torch']}, transformers {versions['transformers']}",
    ]
    if errors := notes.get("reconstruction_error", {}):
        worst = max(errors, key=errors.get)
        lines.append(f"- largest relative reconstruction error: {errors[worst]:.3g} ({worst})")
    lines += [
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "model = AutoModelForCausalLM.from_pretrained(FOLDER)",
        "tokenizer = AutoTokenizer.from_pretrained(FOLDER)",
        "```",
    ]
    return "\n".join(lines) + "\n"
