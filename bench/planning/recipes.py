"""Training recipes by model size: what a method that trains uses where nobody said otherwise."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from bench.system.suggest import describe_unknown
from methods.errors import UserError


@dataclass(frozen=True)
class Recipe:
    """parameters: the largest model it is meant for, 0 for one taken by its name alone; device: "cpu" for those too short
    for a better machine.

    methods: fields by method name, below whatever the user typed.
    """

    name: str
    about: str
    source: str
    parameters: float
    tokens: int
    batch: int
    seqlen: int
    micro: int | None = None
    device: str = ""
    methods: dict[str, dict[str, Any]] = field(default_factory=dict)


@cache
def recipes() -> dict[str, Recipe]:
    """All of them, smallest first."""
    text = resources.files("bench").joinpath("assets/recipes.toml").read_text()
    return {name: Recipe(name=name, **fields) for name, fields in tomllib.loads(text).items()}


def choose(parameters: int, device: str, named: str | None = None) -> Recipe:
    """The recipe named, else the first that is large enough, those for a CPU on a CPU only.

    Raises:
        UserError: no recipe of that name, or none for a model so large.
    """
    known = recipes()
    if named:
        if named not in known:
            raise UserError(describe_unknown("training recipe", named, known))
        return known[named]
    for recipe in known.values():
        if parameters <= recipe.parameters and (not recipe.device or device.split(":")[0] == recipe.device):
            return recipe
    raise UserError(
        f"no training recipe for a model of {parameters / 1e9:.0f} billion parameters: "
        f"name one by --set training.recipe= ({', '.join(known)}), or give all of training.*"
    )
