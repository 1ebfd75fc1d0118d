"""Shapes of models whose weights are not on this machine, from this package or from a config.json."""

from __future__ import annotations

import json
import math
import tomllib
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from bench.inputs import models
from bench.inputs.architecture import count_experts, layout_of
from bench.inputs.model_config import ModelConfig
from bench.system import digests
from bench.system.cache import cache_dir
from bench.system.files import write_file
from methods.errors import UserError
from methods.folder import FORMATS, INDEX, MAX_TENSORS, PICKLES, TIED, WEIGHTS, Folder, read_config
from methods.targets import family_of

ASSUMED_DTYPE = "bfloat16"
"""Number format of weights if the config does not say."""


class PlannedModel:
    """A model of which only config.json is here. An invalid config or an unknown architecture raises UserError."""

    def __init__(self, path: Path) -> None:
        self.path, self.config = path, read_config(path)
        family = family_of(self.config)
        config = ModelConfig(self.config, str(path))
        if (experts := count_experts(family, config)) > MAX_TENSORS:
            raise UserError(f"config.json in {path} names {experts:,} experts, more than a model can have: correct it")
        layout = layout_of(family, config)
        if (count := layout.blocks * len(layout.block)) > MAX_TENSORS:
            raise UserError(f"config.json in {path} names {count:,} tensors, more than a model can have: correct it")
        self._shapes = dict(layout.tensors(family.blocks))
        if not self.config.get("tie_word_embeddings", family.tied):
            self._shapes.setdefault(TIED[0], next(iter(layout.outer.values())))

    @property
    def dtype(self) -> str:
        """Number format that the config names."""
        named = self.config.get("dtype", self.config.get("torch_dtype"))
        return named if named in FORMATS else ASSUMED_DTYPE

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return self._shapes

    @property
    def download_bytes(self) -> int:
        """Bytes of its weights in that format."""
        size = 4 if self.dtype == "float32" else 2
        return size * sum(map(math.prod, self._shapes.values()))


def is_planned(path: Path) -> bool:
    """Return whether a folder has a config.json and no weights, not even in pickle."""
    weights = any((path / name).exists() for name in (WEIGHTS, INDEX, "packed24.json"))
    stored = any(file.name.endswith((".safetensors", *PICKLES)) for file in path.glob("*"))
    return (path / "config.json").is_file() and not weights and not stored


def open_shapes(path: Path) -> Folder | PlannedModel:
    """Return the config and shapes of a model folder, with or without weights."""
    return PlannedModel(path) if is_planned(path) else Folder(path)


@cache
def known_shapes() -> dict[str, dict[str, Any]]:
    """Return the part of config.json that determines the shapes, for models that need no download."""
    text = (resources.files("bench") / "assets" / "shapes.toml").read_text()
    return tomllib.loads(text)


def planned_model(name: str) -> models.Model | None:
    """Return a model to plan with, from its shapes here or from a folder with a config.json. None: they are not known."""
    alias = models.ALIASES.get(name)
    if name in known_shapes():
        folder = cache_dir() / "folders" / f"shapes-{name}"
        folder.mkdir(parents=True, exist_ok=True)
        write_file(folder / "config.json", json.dumps(known_shapes()[name]))
    elif is_planned(Path(name)):
        folder = Path(name).resolve()
    else:
        return None
    opened = PlannedModel(folder)
    seqlen, data = (alias.seqlen, alias.data) if alias else (models.Alias.seqlen, models.Alias.data)
    context = ModelConfig(opened.config, str(folder)).context(default=seqlen)
    digest = digests.of(opened.config)
    return models.Model(name, folder, digest, "", "", min(seqlen, context), data)


def planned_bytes(name: str) -> int:
    """Return the size of a model's download in bytes, or 0 if its shapes are not known."""
    model = planned_model(name)
    return PlannedModel(model.folder).download_bytes if model else 0
