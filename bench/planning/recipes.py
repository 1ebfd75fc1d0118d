"""Training recipes by model size: the settings of a training that the user did not set."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from bench.catalog.entries import METHODS
from bench.system.suggest import describe_unknown
from methods.contract.errors import UserError


@dataclass(frozen=True)
class Recipe:
    name: str
    about: str
    source: str
    parameters: float
    """Parameters of the largest model that it is for. 0: it must be named."""
    tokens: int
    batch: int
    seqlen: int
    final_lr_ratio: float
    """Share of the peak learning rate where the cosine ends, for every built-in method: rows of one
    recipe compare."""
    micro: int | None = None
    device: str = ""
    """Type of device that it is for. Empty: any."""
    methods: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Fields of methods by name. The user's fields override them."""

    def fields_of(self, method: str) -> dict[str, Any]:
        """Return the fields of a method that trains. A plug-in gets those that name it only."""
        shared = {"final_lr_ratio": self.final_lr_ratio} if method in METHODS else {}
        return shared | self.methods.get(method, {})


@cache
def recipes() -> dict[str, Recipe]:
    """Return all recipes, the smallest first."""
    text = resources.files("bench").joinpath("assets/recipes.toml").read_text()
    return {name: Recipe(name=name, **fields) for name, fields in tomllib.loads(text).items()}


def lookup(name: str) -> Recipe:
    """Return the recipe of this name. Raise UserError if it is unknown."""
    if name not in recipes():
        raise UserError(describe_unknown("training recipe", name, recipes()))
    return recipes()[name]


def choose(parameters: int, device: str, named: str | None = None) -> Recipe:
    """Return the named recipe, or the first that is large enough and for this type of device. Raise
    UserError without one."""
    if named:
        return lookup(named)
    recipe = for_size(parameters, device)
    if recipe:
        return recipe
    raise UserError(
        f"no training recipe for a model of {parameters / 1e9:.0f} billion parameters: name one "
        f"by --set training.recipe= ({', '.join(recipes())}), or give all of training.*"
    )


def for_size(parameters: int, device: str) -> Recipe | None:
    """Return the first recipe that is large enough and for this type of device."""
    fits = (
        r
        for r in recipes().values()
        if parameters <= r.parameters and r.device in ("", device.split(":")[0])
    )
    return next(fits, None)
