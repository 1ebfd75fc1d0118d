"""Text that a corpus shares with the test questions of tracks: passages of 13 words.

Words as in the overlap check of GPT-3 (arXiv:2005.14165, appendix C): lower case, without
punctuation. So the count depends on no tokenizer.
"""

from __future__ import annotations

import contextlib
import re
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.inputs import tracks
from bench.parts.sources.removed import known
from bench.system.cache import cache_dir
from bench.system.files import atomic_write

DECIDES_NO_NUMBER = True

LENGTH = 13
"""Words in a passage."""
WORD = re.compile(r"\w+")
FACTOR = np.uint64(0x9E3779B97F4A7C15)
Passages = np.ndarray[Any, np.dtype[np.uint64]]
"""Digest of each passage, uint64."""


def passages(text: str) -> Passages:
    """Return a digest of each passage of a text: its polynomial of words modulo 2^64."""
    words = [zlib.crc32(word.encode()) for word in WORD.findall(text.lower())]
    numbers = np.array(words, np.uint64) * FACTOR
    numbers ^= numbers >> np.uint64(29)
    count = len(numbers) - LENGTH + 1
    if count < 1:
        return np.empty(0, np.uint64)
    total = np.zeros(count, np.uint64)
    for place in range(LENGTH):
        total = total * FACTOR + numbers[place : place + count]
    return total


def are_in(ours: Passages, theirs: Passages) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return for each of our passages whether it is one of theirs, which are sorted."""
    places = np.searchsorted(theirs, ours)
    inside = places < len(theirs)
    inside[inside] = theirs[places[inside]] == ours[inside]
    return inside


def of_task(name: str, data_dir: Path | None) -> Passages | None:
    """Return the passages of a task's test questions, sorted, or None if they are not here."""
    digest = tracks.digest(name, data_dir)
    if not digest:
        return None
    file = cache_dir() / "tokens" / f"passages-{digest[:32]}.npy"
    with contextlib.suppress(OSError, ValueError):
        known: Passages = np.load(file, allow_pickle=False)
        return known
    found = np.unique(np.concatenate([passages(text) for text in _texts(name, data_dir)]))
    with (
        contextlib.suppress(OSError),
        atomic_write(file) as temporary,
        temporary.open("wb") as stream,
    ):
        np.save(stream, found)
    return found


def _texts(name: str, data_dir: Path | None) -> Iterator[str]:
    """Yield each question with each of its answers. The text before all prompts is no test text."""
    for question in tracks.read(name, data_dir, None).questions:
        for i, answer in enumerate(question.continuations):
            yield question.contexts[min(i, len(question.contexts) - 1)] + answer


def count(
    texts: Iterable[str], data_dir: Path | None, names: Collection[str]
) -> dict[str, int] | None:
    """Return how many passages of texts are in each track, for tracks that share any.

    names: tasks, as TRACK/TASK. Those that are not on this machine are left out. None: none of them
    is here.
    """
    theirs = {name: of_task(name, data_dir) for name in names}
    if all(each is None for each in theirs.values()):
        return None
    ours = np.unique(np.concatenate([np.empty(0, np.uint64), *map(passages, texts)]))
    shared: dict[str, int] = {}
    for name, of_name in theirs.items():
        number = 0 if of_name is None else int(are_in(ours, of_name).sum())
        if number:
            track = name.partition("/")[0]
            shared[track] = shared.get(track, 0) + number
    return shared


def count_shared(
    name: str,
    texts: Callable[[], Iterable[str]],
    data_dir: Path | None,
    tasks: Collection[str] | None,
) -> dict[str, int] | None:
    """Return how many passages a corpus shares with each track. See bench.inputs.shared_text.

    A corpus of shared_text.json was counted against all tracks, when its text was pinned.
    """
    about = known().get(name)
    if about is not None:
        return {} if about["removed"] else about["found"]
    return count(texts(), data_dir, tracks.all_tasks() if tasks is None else tasks)
