"""Safe reading of the files of a model folder, which may be hostile: only files inside it, of
bounded size."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from methods.contract.errors import UserError

CACHE_ENV = "CAST_BENCH_CACHE"
MAX_FILE_BYTES = 64 * 2**20
"""Largest size of a file without weights. The largest tokenizers have 35 MB."""
WHOLE_SUFFIXES = (".json", ".jinja", ".model", ".txt", ".tiktoken")
"""Suffixes of files that libraries read into memory."""
LOADED_FOLDERS = ("additional_chat_templates",)
"""Subfolders of a model folder that libraries read."""


def own_cache() -> Path:
    """Return $CAST_BENCH_CACHE, else cast-bench/ under $XDG_CACHE_HOME or ~/.cache."""
    named = os.environ.get(CACHE_ENV)
    if named:
        return Path(named)
    return _cache_home() / "cast-bench"


def _hub_cache() -> Path:
    """Return huggingface_hub's cache. Its models are links to blobs, which may be in another
    folder."""
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("HF_HOME") or _cache_home() / "huggingface") / "hub"


def _cache_home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def find_file(folder: Path, name: str, max_bytes: int | None = MAX_FILE_BYTES) -> Path | None:
    """Return the path of a model folder's file, or None if it does not exist. max_bytes: largest
    size; None for any.

    Raise UserError for a link out of the folder and the caches, and for a file that is not regular
    or not accessible.
    """
    path = folder / name
    try:
        if not os.path.lexists(path):
            return None
        target = path.resolve(strict=True)
        about = target.stat()
        inside = any(target.is_relative_to(root) for root in _roots(folder))
    # A loop of links is a RuntimeError, a null byte a ValueError.
    except (OSError, RuntimeError, ValueError) as fault:
        raise UserError(
            f"cannot read {path} ({_reason(fault)}): replace it with a regular file"
        ) from None
    if not inside:
        raise UserError(
            f"{path} is a link to {target}, outside its model folder and the caches: copy the "
            "file into the folder"
        )
    if not stat.S_ISREG(about.st_mode):
        raise UserError(f"{path} is not a regular file: replace it with one")
    if max_bytes is not None and about.st_size > max_bytes:
        raise UserError(
            f"{path} has {about.st_size:,} bytes, more than {max_bytes:,}: use a smaller file"
        )
    return path


def _roots(folder: Path) -> Iterator[Path]:
    """Yield the folders that may contain the files of a model folder."""
    home = folder.resolve()
    yield home
    if home.parent.name == "snapshots":  # a hub cache, wherever it is
        yield home.parent.parent / "blobs"
    yield _hub_cache().resolve()
    yield own_cache().resolve()


def check_files(folder: Path) -> None:
    """Check every file of a model folder as `find_file` does: libraries read more files than can be
    listed here."""
    for place in ("", *LOADED_FOLDERS):
        try:
            names = sorted(os.listdir(folder / place)) if os.path.lexists(folder / place) else []
        except OSError as fault:
            raise UserError(
                f"cannot read {folder / place} ({_reason(fault)}): check the path and its "
                "permissions"
            ) from None
        for name in names:
            if not os.path.isdir(folder / place / name):
                read_whole = name.endswith(WHOLE_SUFFIXES)
                find_file(folder, os.path.join(place, name), MAX_FILE_BYTES if read_whole else None)


def parse_object(data: bytes) -> dict[str, Any]:
    """Parse a JSON object. Raise ValueError if the data is something else: also NaN, text that is
    not UTF-8, or more than 200 levels, on which pydantic's parser insists."""
    from pydantic_core import from_json

    value = from_json(data, allow_inf_nan=False)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def read_object(folder: Path, name: str) -> dict[str, Any] | None:
    """Return the JSON object in a file that `find_file` finds, or None. Raise ValueError or OSError
    if it is none."""
    file = find_file(folder, name)
    if file is None:
        return None
    return parse_object(file.read_bytes())


def _reason(fault: BaseException) -> str:
    """Return why a file cannot be read, without its name."""
    return str(getattr(fault, "strerror", None) or fault)
