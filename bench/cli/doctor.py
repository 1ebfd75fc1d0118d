"""What a run may need, and whether it is here."""

from __future__ import annotations

import importlib.util
import shutil
import socket
from pathlib import Path
from typing import Any

import psutil

from bench.catalog import registry
from bench.inputs import corpora, models
from bench.inputs.hub import DATA_ENV, mirror
from bench.results.store import RESULTS, writable
from bench.system import devices, environments, provenance
from bench.system.cache import cache_dir
from methods.errors import UserError

EXTRAS = {"llmcompressor": "llmcompressor"}
"""Extra -> the module it brings."""


def rows(data_dir: Path | None, results: Path | None) -> list[dict[str, Any]]:
    """One row a thing: what, whether it is well, and what to do where it is not."""
    out = [_device(), _memory(), _disk(), _results(results or RESULTS), _network(), _mirror(data_dir)]
    out += [_corpus(name, data_dir) for name in corpora.CORPORA]
    out += [_model(name) for name, alias in models.ALIASES.items() if alias.source != "hub"]
    for kind in ("methods", "measures", "quantizers"):
        for name, entry in registry.entries(kind).items():
            if entry.broken:
                out.append(_row(f"plug-in {name}", "broken", entry.broken))
    for extra, module in EXTRAS.items():
        here = importlib.util.find_spec(module) is not None
        out.append(
            _row(f"extra {extra}", "ok" if here else "absent", "" if here else f"pip install 'cast-bench[{extra}]'")
        )
    for row in environments.rows():
        here = row["state"] == "built"
        out.append(
            _row(f"environment {row['name']}", row["state"], row["path"] if here else f"bench env create {row['name']}")
        )
    return out


def _row(thing: str, state: str, detail: str) -> dict[str, Any]:
    return {"thing": thing, "state": state, "detail": detail}


def _device() -> dict[str, Any]:
    device = devices.resolve_device("auto")
    about = provenance.machine()
    if device == "cpu":
        return _row("device", "cpu", f"{about['cpu']}, {devices.cores()} cores; no CUDA device")
    import torch

    return _row("device", "ok", f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}")


def _memory() -> dict[str, Any]:
    memory = psutil.virtual_memory()
    return _row(
        "memory", "ok", f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free; larger models stream"
    )


def _disk() -> dict[str, Any]:
    root = cache_dir()
    while not root.exists():
        root = root.parent
    free = shutil.disk_usage(root).free
    low = free < 5e9
    return _row(
        "disk",
        "low" if low else "ok",
        f"{free / 1e9:.1f} GB free for {cache_dir()}" + ("; bench cache gc frees some" if low else ""),
    )


def _results(root: Path) -> dict[str, Any]:
    there = root
    while not there.exists():
        there = there.absolute().parent
    good = writable(there)
    return _row(
        "results", "ok" if good else "unwritable", str(root) if good else f"{root}: name another with --results"
    )


def _network() -> dict[str, Any]:
    try:
        with socket.create_connection(("huggingface.co", 443), timeout=3):
            return _row("hub", "ok", "huggingface.co answers")
    except OSError as fault:
        return _row(
            "hub", "unreachable", f"{fault}; models and corpora come from the cache, a mirror or the package index"
        )


def _mirror(data_dir: Path | None) -> dict[str, Any]:
    named = mirror(data_dir)
    if named is None:
        return _row("mirror", "none", f"--data-dir or ${DATA_ENV} would name one")
    return _row("mirror", "ok" if named.is_dir() else "missing", str(named))


def _corpus(name: str, data_dir: Path | None) -> dict[str, Any]:
    if not corpora.CORPORA[name].hub:
        return _row(f"corpus {name}", "ok", "comes with gensim")
    here = [use for use, _ in corpora.CORPORA[name].files if corpora.files(name, use, data_dir)]
    return _row(f"corpus {name}", "ok" if here else "absent", " ".join(here) if here else f"bench pull {name}")


def _model(name: str) -> dict[str, Any]:
    try:
        found = models.resolve(name)
    except UserError as fault:
        return _row(f"model {name}", "broken", str(fault))
    return _row(f"model {name}", "ok" if found else "absent", str(found.folder) if found else f"bench pull {name}")
