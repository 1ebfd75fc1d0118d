"""Differences between a model from another tool and its original: pattern, structure, config,
tokenizer, tensors."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from bench.catalog.code import reading_modules
from bench.formats.checkpoint import QUANTIZATION_KEYS, Checkpoint
from bench.formats.opening import guarded, open_checkpoint
from bench.inputs.model_facts import ModelFacts
from bench.inputs.models import TOKENIZER_FILES
from bench.inputs.tokenizer_facts import read_vocabulary
from bench.system import digests
from bench.system.cache import cache_dir
from bench.system.files import write_file
from bench.system.source_digest import digest_source
from bench.verify import name_pattern
from methods.contract.errors import UserError
from methods.model.folder import Folder
from methods.model.safe_files import find_file, read_object
from methods.model.targets import find_targets, select_targets

if TYPE_CHECKING:
    from torch import Tensor

UNIMPORTANT = (
    "transformers_version", "_name_or_path", "architectures", "torch_dtype", "dtype", "use_cache",
    *QUANTIZATION_KEYS,
)  # fmt: skip
"""Keys of config.json that change no number."""
SHOWN = 60
"""Number of characters of a value of config.json in a list of differences."""
MAX_LISTED = 20
"""Largest number of names in a list of differences."""


class Inspection(BaseModel):
    """Facts about a model from another tool that a plan needs."""

    form: str
    pattern: str
    """Pattern that holds in all targets, as bench.verify.name_pattern finds it."""
    sparsity: float
    """Share of the targets' weights that are zero."""
    is_quantized: bool


def inspect(
    path: Path,
    content: str,
    original: ModelFacts,
    include: Collection[str],
    exclude: Collection[str],
) -> Inspection:
    """Refuse a model that cannot be compared with its original, and find its pattern.

    The result is kept in the cache. content: digest of the model's files.
    """
    code = digest_source(__name__, *reading_modules())
    key = digests.of([content, original.digest, list(include), list(exclude), code])
    known = cache_dir() / "folders" / f"{key[:32]}.json"
    if known.is_file():
        return Inspection.model_validate_json(known.read_text())
    with guarded(path):
        found = _inspect(path, original, include, exclude)
    known.parent.mkdir(parents=True, exist_ok=True)
    write_file(known, found.model_dump_json())
    return found


def _inspect(
    path: Path, original: ModelFacts, include: Collection[str], exclude: Collection[str]
) -> Inspection:
    checkpoint = open_checkpoint(path, original.open())
    # Refuses an unknown family, which the check of the architecture passes.
    linears = find_targets(checkpoint.config, checkpoint.shapes())
    _require_comparable(checkpoint, original)
    targets = select_targets(linears, include, exclude)
    pattern, sparsity = name_pattern(
        map(checkpoint.weight, targets), is_quantized=checkpoint.is_quantized
    )
    return Inspection(
        form=checkpoint.form,
        pattern=str(pattern),
        sparsity=sparsity,
        is_quantized=checkpoint.is_quantized,
    )


def _require_comparable(checkpoint: Checkpoint, original: ModelFacts) -> None:
    """Refuse a model with other numbers of tokens than its original."""
    known = original.tokenizer
    if not known.exists:
        return
    known.require_fit(checkpoint.config["vocab_size"])
    own = _own_tokenizer(checkpoint)
    if own:
        ours, theirs = read_vocabulary(known.path), read_vocabulary(own)
        moved = next(
            (token for token, number in ours.items() if theirs.get(token, number) != number), None
        )
        if moved is not None:
            raise UserError(
                f"{checkpoint.path} cannot be compared with {original.folder}: the token "
                f"{moved!r} has the number {theirs[moved]} there and {ours[moved]} here, so the "
                "two models read other tokens"
            )


def _own_tokenizer(checkpoint: Checkpoint) -> Path | None:
    folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.folder.path
    return find_file(folder, "tokenizer.json")


def list_differences(
    checkpoint: Checkpoint, original: Folder, changed: Iterable[str]
) -> dict[str, Any]:
    """Return what differs from the original besides the targets, as JSON for a record.

    changed: names of tensors that both have and whose values differ, without the targets.
    """
    shapes, before = checkpoint.shapes(), original.shapes()
    lists = {
        "tensors_changed": sorted(changed),
        "tensors_missing": sorted(set(before) - set(shapes)),
        "tensors_new": sorted(set(shapes) - set(before)),
        "shapes": [
            f"{name}: {list(before[name])} -> {list(shapes[name])}"
            for name in sorted(set(shapes) & set(before))
            if shapes[name] != before[name]
        ],
        "config": sorted(_config_differences(original.config, checkpoint.config)),
        "tokenizer": sorted(_tokenizer_differences(checkpoint, original)),
    }
    return {name: _shortened(lines) for name, lines in lists.items() if lines}


def _config_differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterable[str]:
    for key in sorted((set(before) | set(after)) - set(UNIMPORTANT)):
        was, now = (json.dumps(config.get(key), sort_keys=True) for config in (before, after))
        if was != now:
            first = next((i for i, (a, b) in enumerate(zip(was, now, strict=False)) if a != b), 0)
            at = max(0, first - SHOWN // 2)  # so that the difference is in what is shown
            yield f"{key}: {was[at : at + SHOWN]} -> {now[at : at + SHOWN]}"


def _tokenizer_differences(checkpoint: Checkpoint, original: Folder) -> Iterable[str]:
    if _own_tokenizer(checkpoint) is None:
        return
    folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.folder.path
    for name in TOKENIZER_FILES:
        was, now = (_content(place, name) for place in (original.path, folder))
        if now is not None and was != now:
            yield name


def _content(folder: Path, name: str) -> Any:
    """Return the JSON in a file, or its digest; None without the file. Spaces and order do not
    count."""
    file = find_file(folder, name)
    if file is None:
        return None
    try:
        return read_object(folder, name) if name.endswith(".json") else digests.of_file(file)
    except ValueError:
        return digests.of_file(file)


def _shortened(lines: list[str]) -> list[str]:
    more = len(lines) - MAX_LISTED
    return [*lines[:MAX_LISTED], f"and {more:,} more"] if more > 0 else lines


def same_values(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors have the same shape and values."""
    return a.shape == b.shape and bool((a == b).all())
