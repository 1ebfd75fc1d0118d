"""Data sets in a mirror or the cache: files and configurations. A task reads one configuration."""

from __future__ import annotations

import contextlib
import csv
import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from yaml import YAMLError

from bench.inputs.hub import REVISION_FILE, UNFINISHED_FILE


def files(folder: Path) -> list[Path]:
    """Return data files and the README, which describes the splits, without hidden files. Empty if
    there is no data."""
    found = [
        p
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name not in (REVISION_FILE, UNFINISHED_FILE)
    ]
    visible = [p for p in found if "/." not in f"/{p.relative_to(folder).as_posix()}"]
    return visible if any(p.suffix not in (".md", "") for p in visible) else []


def measure_rows(paths: Iterable[Path], prompt: str) -> tuple[int, float]:
    """Return the number of rows in data files, and the mean number of bytes in a row's fields that
    `prompt` names.

    Without any named field, all fields count. Files other than Parquet, JSON lines and CSV are left
    out.
    """
    from pyarrow import ArrowInvalid, parquet  # slow to import

    words = set(re.findall(r"\w+", prompt))
    rows, sizes = 0, Counter[str]()
    for path in paths:
        with contextlib.suppress(
            ArrowInvalid, OSError, ValueError, TypeError, csv.Error, RecursionError
        ):
            if path.suffix == ".parquet":
                about = parquet.read_metadata(path)
                rows += about.num_rows
                columns = [
                    about.row_group(i).column(j)
                    for i in range(about.num_row_groups)
                    for j in range(about.num_columns)
                ]
                for column in columns:
                    sizes[column.path_in_schema.partition(".")[0]] += column.total_uncompressed_size
            elif path.suffix in (".jsonl", ".csv"):
                with path.open(newline="") as file:
                    read: Iterable[Any] = (
                        map(json.loads, file) if path.suffix == ".jsonl" else csv.DictReader(file)
                    )
                    for row in read:
                        rows += 1
                        sizes.update(
                            {str(name): len(str(value)) for name, value in dict(row).items()}
                        )
    named = [size for name, size in sizes.items() if name in words] or list(sizes.values())
    return rows, sum(named) / max(1, rows)


def holds(folder: Path, config: str) -> bool:
    """Return whether a data set has files, and the configuration `config` unless that is ""."""
    return bool(files(folder)) and (
        not config or config in _listed(folder) or bool(files(folder / config))
    )


def location(folder: Path, config: str) -> tuple[Path, str | None]:
    """Return the folder and the configuration to pass to `datasets`. config: the configuration of a
    task, or "".

    The header of the README may list configurations. Others are read from the folder with their
    name.
    """
    if not config or config in _listed(folder) or not files(folder / config):
        return folder, config or None
    return folder / config, None


def _listed(folder: Path) -> list[str]:
    """Return the configurations in the header of a README."""
    from huggingface_hub import metadata_load  # slow to import

    readme = folder / "README.md"
    try:
        header = metadata_load(readme) if readme.is_file() else None
    # The header is not in YAML, or nested too deeply.
    except (ValueError, LookupError, RecursionError, YAMLError):
        header = None
    configs = header.get("configs") if isinstance(header, dict) else None
    if isinstance(configs, list):
        named = [c.get("config_name") for c in configs if isinstance(c, dict)]
    else:
        named = []
    # Aliases of YAML make others endless.
    return [str(name) for name in named if isinstance(name, str | int)]
