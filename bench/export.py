"""Prune one model into a folder of the user's, with a card that says how it was made."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from bench import cache, cells, digests, planning, provenance, watch
from bench.check import Broken
from bench.paths import cache_dir, using
from bench.spec import RESULTS, Spec
from bench.store import Store
from methods.errors import Skipped, UserError
from methods.quantizing import NOTE

__all__ = ["Broken", "prune"]


class _Show:
    """A builder's events drawn by a watch."""

    def __init__(self, show: watch.Watch) -> None:
        self.phase, self._show = "", show

    def advance(self, done: int, total: int, **figures: float) -> None:
        self._show.progress(self.phase, done, total, figures)


def prune(spec: Spec, out: Path) -> str:
    """Write the artifact of a spec with one method, model and pattern to `out`; returns a sentence for the user.

    Raises:
        UserError: more than one of them, or `out` is taken.
        Broken: the method broke its promise.
    """
    if any(len(x) != 1 for x in (spec.methods, spec.models, spec.patterns, spec.quantizers)):
        raise UserError("bench prune takes one method, one model, one pattern and one quantizer; bench run takes many")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {str(out)!r} is there already: name a new folder, or empty it")
    with using():
        planned = planning.make(spec, fetch=True).cells
        artifact = next(c.artifact for c in planned if c.artifact.pruner.label == spec.methods[0])
        with using(*cache.names(artifact)):
            return _write(artifact, out)


def pruned(name: str, results: Path | None) -> tuple[Path, str]:
    """The folder of a pruned model and its pattern: a folder as it is, or the cached model a record speaks of.

    Raises:
        UserError: no such record, or its model is no longer in the cache.
    """
    if Path(name).is_dir():
        return Path(name), "2:4"
    record = Store(results or RESULTS, write=False).find(name)
    key = digests.of({k: v for k, v in record.determinants.items() if k not in ("tokenizer", "measure")})
    folder = cache_dir() / "artifacts" / key[:32]
    if not (folder / "config.json").exists():
        raise UserError(
            f"the model of record {record.key[:12]} is not in the cache any more: make it a folder with "
            f"bench prune --method {record.slot['method']} --model {record.slot['model']}"
            + (f" --quant {quantizer}" if (quantizer := record.slot["quantizer"]) != "none" else "")
            + " --out DIR, and name that"
        )
    return folder, str(record.slot["pattern"])


def _write(artifact: cells.Artifact, out: Path) -> str:
    from bench.build import Builder

    show = watch.on(sys.stderr)
    show.begin(1, 0)
    show.artifact(artifact.told, False)
    try:
        builder = Builder(artifact, _Show(show))
        built = builder.build(artifact)
    except Skipped as fault:
        raise UserError(f"{artifact.done} cannot run here: {fault}") from None
    finally:
        show.end()
    out.mkdir(parents=True, exist_ok=True)
    for file in built.folder.iterdir():
        if file.is_file() and file.name not in ("artifact.json", "PULLED.json", "TRAINING.json", "README.md"):
            shutil.copyfile(file, out / file.name)
    verdict = built.verdict
    zeros = sum(x.zeros for x in verdict.layers.values()) / max(1, sum(x.weights for x in verdict.layers.values()))
    (out / "README.md").write_text(_card(artifact, zeros, built.notes))
    held = f"{verdict.violations} groups break the pattern" if verdict.violations else "pattern checked"
    told = f"{out}: {artifact.model} by {artifact.done}, {artifact.pattern}, {zeros:.1%} of {len(verdict.layers)} linears zero, {held}"
    found = built.notes.get("validation_perplexity", {})
    return told + "".join(f"; perplexity on held-out text {k.replace('_', ' ')} {v:.4g}" for k, v in found.items())


def _card(artifact: cells.Artifact, zeros: float, notes: Any) -> str:
    versions = provenance.versions()
    draw, course = artifact.calibration, artifact.training
    errors = notes.get("reconstruction_error", {})
    worst = max(errors, key=errors.get) if errors else ""
    lines = [
        f"# {Path(artifact.model).name}, {artifact.pattern} by {artifact.done}",
        "",
        f"Made from `{artifact.model}`"
        + (f" (revision {artifact.revision})" if artifact.revision else "")
        + f" by cast-bench {versions['cast-bench']} on {time.strftime('%Y-%m-%d', time.gmtime())}.",
        "",
        f"- pattern: {artifact.pattern}; {zeros:.2%} of the pruned linears' weights are zero, stored dense",
        f"- method: {artifact.method}, code {artifact.pruner.source[:12]}",
        *_quantized(artifact.quantizer, notes),
        f"- calibration: {draw.sequences} x {draw.seqlen} tokens of {draw.data}, seed {artifact.seed}"
        if draw
        else "- calibration: none",
        *(
            [
                f"- training: {course.tokens:,} tokens of {course.data} in steps of {course.batch} x {course.seqlen}, "
                f"seed {artifact.seed}, {json.dumps(artifact.pruner.config)}"
            ]
            if course
            else []
        ),
        f"- source weights: sha256 {artifact.digest}",
        f"- dtype {artifact.dtype}, torch {versions['torch']}, transformers {versions['transformers']}",
        *([f"- largest relative reconstruction error: {errors[worst]:.3g} ({worst})"] if worst else []),
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "model = AutoModelForCausalLM.from_pretrained(FOLDER)",
        "tokenizer = AutoTokenizer.from_pretrained(FOLDER)",
        "```",
    ]
    return "\n".join(lines) + "\n"


def _quantized(quantizer: str, notes: Any) -> list[str]:
    """What a folder's weights cannot tell of themselves: they lie there dequantized."""
    if quantizer == "none":
        return []
    rounded = (
        "; the linears' inputs are rounded, too, when cast-bench loads this folder, and not when transformers does"
        if notes.get(NOTE, {}).get("activations")
        else ""
    )
    return [f"- quantizer: {quantizer}, its weights stored dequantized{rounded}"]
