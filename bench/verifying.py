"""Does a pattern hold in a model folder, whoever made it? Reads safetensors and config.json, runs nothing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench import models
from bench.check import Verdict, count
from methods.errors import UserError
from methods.folder import Folder
from methods.pattern import Pattern
from methods.targets import family_of, find_targets, require_fit


def verify(name: str, pattern: str, include: Iterable[str], exclude: Iterable[str]) -> Verdict:
    """Count over the linears of a folder, or of a model known by name that is here.

    Raises:
        UserError: nothing there, no safetensors, quantized, an architecture not taught here, or widths that the pattern
            does not divide.
    """
    wanted = Pattern.parse(pattern)
    folder = _open(name)
    shapes = folder.shapes()
    targets = find_targets(folder.config, shapes, include, exclude)
    transposed = family_of(folder.config).transposed
    verdict = Verdict(wanted)
    require_fit(wanted, folder.config, shapes, targets, "--exclude ")
    for target in targets:
        weight = folder.tensor(target + ".weight")
        count(verdict, target, weight.T if transposed else weight)
    return verdict


def _open(name: str) -> Folder:
    if Path(name).is_dir():
        return Folder(Path(name))
    model = models.resolve(name)
    if model is None:
        raise UserError(f"model {name!r} is not here yet: bench pull {name} fetches it")
    return model.open()


def rows(verdict: Verdict) -> list[dict[str, Any]]:
    """A row a layer, and one for all."""
    out: list[dict[str, Any]] = [
        {
            "layer": name,
            "weights": x.weights,
            "zeros": x.zeros,
            "negative_zeros": x.negative_zeros,
            "violated_groups": x.violations,
        }
        for name, x in verdict.layers.items()
    ]
    return [*out, {"layer": "total"} | {k: sum(r[k] for r in out) for k in out[0] if k != "layer"}]
