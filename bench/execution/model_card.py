"""The model card of a pruned folder."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from bench.planning.artifact import Artifact
from bench.system import provenance
from methods.quantizing.stored import STORED_KEY


def card(artifact: Artifact, zeros: float, notes: Any) -> str:
    versions = provenance.versions()
    calibration, training = artifact.calibration, artifact.training
    errors = notes.get("reconstruction_error", {})
    worst = max(errors, key=errors.get) if errors else ""
    lines = [
        f"# {Path(artifact.model).name}, {artifact.pattern} by {artifact.stage_labels}",
        "",
        f"Made from `{artifact.model}`"
        + (f" (revision {artifact.revision})" if artifact.revision else "")
        + f" by cast-bench {versions['cast-bench']} on {time.strftime('%Y-%m-%d', time.gmtime())}.",
        "",
        f"- pattern: {artifact.pattern}; {zeros:.2%} of the pruned linears' weights are zero, stored dense",
        f"- method: {artifact.method}, code {artifact.pruner.source[:12]}",
        *_quantizer_lines(artifact.quantizer, notes),
        f"- calibration: {calibration.sequences} x {calibration.seqlen} tokens of {calibration.data}, seed {artifact.seed}"
        if calibration
        else "- calibration: none",
        *(
            [
                f"- training: {training.tokens:,} tokens of {training.data} in steps of {training.batch} x {training.seqlen}, "
                f"seed {artifact.seed}, {json.dumps(artifact.pruner.config)}"
            ]
            if training
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


def _quantizer_lines(quantizer: str, notes: Any) -> list[str]:
    """Describe the quantizer, which the dequantized weights do not show."""
    if quantizer == "none":
        return []
    rounded = (
        "; the linears' inputs are rounded, too, when cast-bench loads this folder, and not when transformers does"
        if notes.get(STORED_KEY, {}).get("activations")
        else ""
    )
    return [f"- quantizer: {quantizer}, its weights stored dequantized{rounded}"]
