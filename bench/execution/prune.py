"""Write one pruned model to a new folder, with a model card: a run of one artifact, whose records
are not kept."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from bench.execution import progress
from bench.execution.lead import require_lead
from bench.execution.runner import execute
from bench.formats import stored
from bench.planning import plan
from bench.planning.artifact import Artifact, Plan
from bench.planning.spec import Spec
from bench.results.record import Record
from bench.results.store import Store
from bench.system import provenance
from bench.system.cache import cache_dir, in_use, sweep_leftovers, temporary_folder
from bench.system.files import atomic_folder, require_folder
from bench.system.text import amount
from methods.contract.errors import UserError
from methods.model import constant_experts, low_rank_adapter
from methods.model.folder import read_config
from methods.model.safe_files import find_file
from methods.workshop.quantizing.inputs import ACTIVATIONS_KEY

FIXED = {"measures": ("size",), "executor": "local", "log_to": (), "shard": None, "jobs": 1}
"""Settings of a run of many artifacts, which a config may have."""


class NotMade(Exception):
    """The method failed, or its result did not pass the check."""

    def __init__(self, record: Record) -> None:
        super().__init__(record.reason)
        is_verdict = record.status == "diverged" or record.reason.startswith("CheckFailed: ")
        self.traceback = "" if is_verdict else record.traceback
        """Traceback of an unexpected fault, or the last output of a worker that died."""


def write_pruned(spec: Spec, out: Path) -> str:
    """Write the artifact of a spec with one method, model and pattern to `out`, and return a
    sentence about it.

    Raises:
        UserError: there is more than one of them, `out` exists, or the method refuses its input or
        this machine. NotMade: it failed, or its result did not pass the check.
        RunStopped: the disk of the cache is full.
    """
    if any(len(x) != 1 for x in (spec.methods, spec.models, spec.patterns, spec.quantizers)):
        raise UserError(
            "bench prune takes one method, one model, one pattern and one quantizer; bench run "
            "takes many"
        )
    require_folder(out, new=True)
    require_lead(spec.training.nodes)
    sweep_leftovers()
    with temporary_folder("prune") as results:
        planned = plan.make_plan(spec.model_copy(update=FIXED | {"results": results}), fetch=True)
        *_, chosen = planned.artifacts().values()  # the dense model comes first
        artifact = chosen[0].artifact
        with in_use(*artifact.cache_names):
            one = Plan(planned.spec, tuple(chosen), ())
            summary = execute(one, Store(results), [progress.display_for(sys.stderr)])
            _require_made(artifact, summary.records)
            return _write(artifact, summary.records, out)


def _require_made(artifact: Artifact, records: list[Record]) -> None:
    """Raise UserError if a method refused its input or this machine, or NotMade if it failed."""
    for record in records:
        kind, _, sentence = record.reason.partition(": ")
        if record.status == "skipped":
            raise UserError(f"{artifact.stage_labels} cannot run here: {record.reason}")
        if record.status == "failed" and kind == UserError.__name__:
            raise UserError(sentence)
        if record.status != "ok":
            raise NotMade(record)


def _write(artifact: Artifact, records: list[Record], out: Path) -> str:
    """Copy the built model to `out`, and return a sentence about it. records: its size and its
    check."""
    rows = {row.metric: row for record in records for row in record.readings}
    zeros, violations = (rows[name].value or 0 for name in ("sparsity", "violated_groups"))
    built, notes = (
        _built_folder(artifact),
        {name: note for r in records for name, note in r.notes.items()},
    )
    with atomic_folder(out) as folder:
        for file in built.iterdir():
            if not file.is_dir() and file.name not in (
                "artifact.json",
                "PULLED.json",
                "TRAINING.json",
                "README.md",
            ):
                find_file(built, file.name, None)
                shutil.copyfile(file, folder / file.name)
        low_rank_adapter.copy(built, folder)
        constant_experts.copy(built, folder)
        stored.copy(built, folder)
        (folder / "README.md").write_text(_card(artifact, built, zeros, notes))
    if violations:
        check = f"pattern violated by {amount(int(violations), 'group')}"
    else:
        check = "pattern checked"
    validation = notes.get("validation_perplexity", {})
    return (
        f"{out}: {artifact.model} by {artifact.stage_labels}, {artifact.pattern}, {zeros:.1%} of "
        f"the weights of {rows['violated_groups'].n} linears are zero, {check}"
        + "".join(
            f"; perplexity on held-out text {k.replace('_', ' ')} {v:.4g}"
            for k, v in validation.items()
        )
    )


def _built_folder(artifact: Artifact) -> Path:
    """Return the folder of a built artifact: that of its last stage that changed something, or of
    the model itself."""
    homes = (cache_dir() / "artifacts" / name for name in reversed(artifact.cache_names))
    return next((home for home in homes if (home / "config.json").exists()), artifact.folder)


def _card(artifact: Artifact, built: Path, zeros: float, notes: Any) -> str:
    versions, calibration, training = provenance.versions(), artifact.calibration, artifact.training
    revision = f" (revision {artifact.revision})" if artifact.revision else ""
    day = time.strftime("%Y-%m-%d", time.gmtime())
    lines = [
        f"# {Path(artifact.model).name}, {artifact.pattern} by {artifact.stage_labels}",
        "",
        f"Made from `{artifact.model}`{revision} by cast-bench {versions['cast-bench']} on {day}.",
        "",
        f"- pattern: {artifact.pattern}; {zeros:.2%} of the pruned linears' weights are zero, "
        "stored dense",
        f"- method: {artifact.method}, code {artifact.pruner.source[:12]}",
    ]
    if artifact.quantizer != "none":
        lines.append(f"- quantizer: {artifact.quantizer}, its weights stored dequantized")
        if ACTIVATIONS_KEY in read_config(built):
            lines[-1] += (
                "; the linears' inputs are rounded, too, when cast-bench loads this folder, and "
                "not when transformers does"
            )
    lines.append("- calibration: none")
    if calibration:
        text = f"{calibration.sequences} x {calibration.seqlen} tokens of {calibration.data}"
        lines[-1] = f"- calibration: {text}, seed {artifact.seed}"
    if training:
        text = (
            f"{training.tokens:,} tokens of {training.data} in steps of {training.batch} x "
            f"{training.seqlen}"
        )
        lines.append(
            f"- training: {text}, seed {artifact.seed}, {json.dumps(artifact.pruner.config)}"
        )
    if artifact.terms:
        lines.append(f"- terms of the source: {artifact.terms}")
    lines += [
        f"- source weights: sha256 {artifact.digest}",
        f"- dtype {artifact.dtype}, arithmetic in {artifact.computed_in}, torch "
        f"{versions['torch']}, transformers {versions['transformers']}",
    ]
    errors = notes.get("reconstruction_error", {})
    if errors:
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
