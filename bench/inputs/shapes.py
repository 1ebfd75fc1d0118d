"""Facts of models without weights here, from this package or from a config.json."""

from __future__ import annotations

import tempfile
import tomllib
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from bench.inputs import hub, models
from bench.inputs.architecture import layout_of
from bench.inputs.model_config import ModelConfig
from bench.inputs.model_facts import ModelFacts
from bench.system import digests
from bench.system.cache import DOWNLOAD, cache_dir
from bench.system.files import write_file
from methods.contract.errors import UserError
from methods.model.families import Family
from methods.model.folder import (
    FLOAT_TYPES,
    INDEX,
    PICKLES,
    TIED,
    WEIGHTS,
    read_config,
)
from methods.model.targets import family_of

CONFIG = "config.json"
SHAPE = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "vocab_size",
)  # fmt: skip
"""Keys of config.json that `shape` of an entry gives, in order."""
ASSUMED_DTYPE = "bfloat16"
"""Number format of weights if the config does not say."""


def is_planned(path: Path) -> bool:
    """Return whether a folder has a config.json and no weights, not even in pickle."""
    weights = any((path / name).exists() for name in (WEIGHTS, INDEX, "packed24.json"))
    stored = any(file.name.endswith((".safetensors", *PICKLES)) for file in path.glob("*"))
    return (path / CONFIG).is_file() and not weights and not stored


@cache
def known_shapes() -> dict[str, dict[str, Any]]:
    """Return the part of config.json that determines the shapes, for models that need no download.

    Their names are hub ids, and aliases of them or of this package.
    """
    text = (resources.files("bench") / "assets" / "shapes.toml").read_text()
    found: dict[str, dict[str, Any]] = {}
    for family, entries in tomllib.loads(text).items():
        for entry in entries:
            sizes = dict(zip(SHAPE, entry.pop("shape"), strict=True))
            named = entry.pop("models")
            config = {"model_type": family, **sizes, **entry}
            found |= dict.fromkeys(named, config)
    for name, alias in models.ALIASES.items():
        if alias.ref in found:
            found[name] = found[alias.ref]
    return found


def planned_model(name: str) -> ModelFacts | None:
    """Return the facts of a model of this package, or of a folder with config.json alone.

    None: the model is neither. Raise UserError for an invalid config or unknown architecture.
    """
    if name in known_shapes():
        config = known_shapes()[name]
        # This folder does not exist.
        folder = cache_dir() / "folders" / f"shapes-{_file_name(name)}"
    elif is_planned(Path(name)):
        folder = Path(name).resolve()
        config = read_config(folder)
    else:
        return None
    return _facts_of(name, folder, config)


def fetched_model(name: str, data_dir: Path | None) -> ModelFacts | None:
    """Return the facts of a model on the hub from its config.json, which is downloaded unless it is
    in the cache.

    None: the model is not on the hub. Raise UserError if the file cannot be had or used.
    """
    alias = models.alias_of(name)
    if alias is None or alias.source != "hub":
        return None
    folder = cache_dir() / "configs" / _file_name(alias.ref)
    if not (folder / CONFIG).is_file():
        repository = hub.Repository(
            alias.ref,
            "model",
            f"the config of {name}",
            f"name a folder with its {CONFIG} (bench plan --model FOLDER)",
            tuple(models.candidate_folders(name, alias, data_dir)),
        )
        snapshot = repository.latest()
        if CONFIG not in snapshot.files:
            raise UserError(f"{alias.ref} on the hub has no {CONFIG}: name another model")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, suffix=DOWNLOAD) as temporary:
            (file,) = repository.download(snapshot, [CONFIG], Path(temporary))
            write_file(folder / CONFIG, file.read_text(encoding="utf-8", errors="replace"))
    return _facts_of(name, folder, read_config(folder))


def _file_name(name: str) -> str:
    return name.replace("/", "--")


def _facts_of(name: str, folder: Path, config: dict[str, Any]) -> ModelFacts:
    alias = models.find_alias(name) or models.Alias("local", name)
    family, checked = family_of(config), ModelConfig(config, str(folder))
    named = config.get("dtype", config.get("torch_dtype"))
    dtype = named if named in FLOAT_TYPES else ASSUMED_DTYPE
    return ModelFacts(
        name=name,
        folder=folder,
        config=config,
        shapes=_shapes_of(family, config, checked, folder),
        dtype=dtype,
        has_weights=False,
        has_tokenizer=any((folder / file).exists() for file in models.TOKENIZER_FILES),
        digest=digests.of(config),
        seqlen=min(alias.seqlen, checked.context(default=alias.seqlen)),
        data=alias.data,
    )


def _shapes_of(
    family: Family, config: dict[str, Any], checked: ModelConfig, folder: Path
) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor by the config. Raise UserError if there are too many."""
    layout = layout_of(family, checked)
    _require_few(layout.blocks * len(layout.block), "tensors", folder)
    shapes = dict(layout.tensors(family.blocks))
    if not config.get("tie_word_embeddings", family.tied):
        shapes.setdefault(TIED[0], next(iter(layout.outer.values())))
    return shapes


def _require_few(count: int, what: str, folder: Path) -> None:
    if count > 200_000:
        raise UserError(
            f"config.json in {folder} names {count:,} {what}, more than a model can have: correct "
            "it"
        )
