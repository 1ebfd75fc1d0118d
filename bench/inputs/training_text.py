"""Training text as packed tokens: tokenized once, kept on disk, and cut into sequences in an order of its own each epoch.

Documents stand one after another, each closed by the end-of-text token. A sequence may begin anywhere in one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.inputs import corpora, hub, wikimini
from bench.system import digests
from bench.system.cache import cache_dir
from bench.system.files import atomic_write
from methods.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

BATCH_DOCUMENTS = 256
"""Tokenized at a time."""
HELD_OUT_SEQUENCES = 64
"""Sequences at the end of a corpus without a validation split, never trained on and used as one."""
MAX_VALIDATION_WINDOWS = 256
"""Validation windows at most."""
TEXT_SUFFIXES = (".txt", ".jsonl")


@dataclass(frozen=True)
class PackedCorpus:
    """A corpus for the trainer. ids: [tokens]; batch: sequences a step."""

    ids: np.ndarray[Any, Any]
    seqlen: int
    sequences: int
    seed: int

    @property
    def step_tokens(self) -> int:
        return self.sequences * self.seqlen

    @property
    def tokens(self) -> int:
        return len(self.ids)

    @cached_property
    def digest(self) -> str:
        order = f"{self.seqlen} {self.sequences} {self.seed} {self.ids.dtype}"
        return hashlib.sha256(order.encode() + np.ascontiguousarray(self.ids).data).hexdigest()

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Tensor:
        """This rank's sequences of a step: int64 [sequences / world, seqlen].

        An epoch is a shift of the stream by less than a sequence, then its sequences in a random order.
        """
        import torch

        share = self.sequences // world
        first = step * self.sequences + rank * share
        rows = [self._sequence(k) for k in range(first, first + share)]
        return torch.from_numpy(np.stack(rows).astype(np.int64))

    def _sequence(self, k: int) -> np.ndarray[Any, Any]:
        per_epoch = (len(self.ids) - self.seqlen + 1) // self.seqlen or 1  # one is left for the shift
        epoch, place = divmod(k, per_epoch)
        shift, order = self._epoch(epoch, per_epoch)
        start = shift + order[place] * self.seqlen
        return self.ids[start : start + self.seqlen]

    def _epoch(self, epoch: int, count: int) -> tuple[int, np.ndarray[Any, Any]]:
        held = self.__dict__.get("_held")
        if held is None or held[0] != epoch:
            dice = np.random.default_rng([self.seed, epoch])
            shift = int(dice.integers(0, len(self.ids) - count * self.seqlen + 1))
            held = (epoch, (shift, dice.permutation(count)))
            self.__dict__["_held"] = held  # a frozen dataclass, and only a memory
        return held[1]


def check_name(name: str) -> None:
    """
    Raises:
        UserError: neither a corpus by name nor a text file or folder that is here.
    """
    if not _is_local(name):
        corpora.lookup(name)


def content_digest(name: str, data_dir: Path | None) -> str:
    """What identifies a training corpus before it is read.

    Raises:
        UserError: it is not here and not to be had.
    """
    if _is_local(name):
        return digests.of([digests.of_file(f) for f in _local_files(name)])
    if not corpora.lookup(name).hub:
        return wikimini.RECIPE
    if found := corpora.files(name, "training", data_dir):
        return digests.of([digests.of_file(f) for f in found])
    return _hub_revision(name, data_dir)


def load(
    name: str,
    tokenizer: Any,
    identity: str,
    *,
    need: int,
    seqlen: int,
    sequences: int,
    seed: int,
    data_dir: Path | None,
) -> tuple[PackedCorpus, np.ndarray[Any, Any]]:
    """The corpus, and validation windows [windows, seqlen]. Of a large corpus no more is read than `need` tokens.

    Raises:
        UserError: less than one batch.
    """
    if name == "wiki-mini":
        ids = _load_tokens(name, "train", tokenizer, identity, None, data_dir)
        held = _load_tokens(name, "validation", tokenizer, identity, None, data_dir)
    else:
        ids = _load_tokens(name, "training", tokenizer, identity, need + (HELD_OUT_SEQUENCES + 1) * seqlen, data_dir)
        end = max(0, len(ids) - HELD_OUT_SEQUENCES * seqlen)
        ids, held = ids[:end], ids[end:]
    if len(ids) < sequences * seqlen:
        raise UserError(
            f"{name} has {len(ids):,} tokens to train on and one step takes {sequences} x {seqlen}: "
            "lower training.batch or training.seqlen, or take another corpus"
        )
    windows = held[: len(held) // seqlen * seqlen].reshape(-1, seqlen)[:MAX_VALIDATION_WINDOWS]
    return PackedCorpus(ids, seqlen, sequences, seed), windows.astype(np.int64)


def _load_tokens(
    name: str, use: str, tokenizer: Any, identity: str, limit: int | None, data_dir: Path | None
) -> np.ndarray[Any, Any]:
    key = digests.of([name, use, identity, limit])[:32]
    file = cache_dir() / "tokens" / f"{key}.npy"
    if not file.exists():
        ids = np.fromiter(_tokens(_texts(name, use, data_dir), tokenizer, limit), dtype=np.uint32)
        if len(tokenizer) <= 2**16:
            ids = ids.astype(np.uint16)
        with atomic_write(file) as temporary, temporary.open("wb") as stream:
            np.save(stream, ids, allow_pickle=False)
    return np.load(file, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]


def _tokens(texts: Iterator[str], tokenizer: Any, limit: int | None) -> Iterator[int]:
    end = tokenizer.eos_token_id
    if end is None:
        raise UserError("the model's tokenizer has no end-of-text token to put between documents")
    count = 0
    batch: list[str] = []

    def encoded() -> Iterator[int]:
        for ids in tokenizer(batch, add_special_tokens=False)["input_ids"]:
            yield from ids
            yield end

    for text in texts:
        batch.append(text)
        if len(batch) == BATCH_DOCUMENTS:
            for token in encoded():
                yield token
                count += 1
                if limit and count >= limit:
                    return
            batch.clear()
    if batch:
        for token in encoded():
            yield token
            count += 1
            if limit and count >= limit:
                return


def _texts(name: str, use: str, data_dir: Path | None) -> Iterator[str]:
    if name == "wiki-mini":
        yield from (a.text for a in wikimini.articles(use, cache_dir()))
        return
    if _is_local(name):
        for file in _local_files(name):
            if file.suffix == ".jsonl":
                with file.open() as lines:
                    for number, line in enumerate(lines, 1):
                        yield _text_of(line, file, number)
            else:
                yield file.read_text()
        return
    yield from _stream(name, use, data_dir)


def _text_of(line: str, file: Path, number: int) -> str:
    try:
        text = json.loads(line)["text"]
        if isinstance(text, str):
            return text
    except (ValueError, KeyError, TypeError):
        pass
    raise UserError(f'{file} line {number} is not JSON with a "text": mend it, or point to plain .txt files')


def _stream(name: str, use: str, data_dir: Path | None) -> Iterator[str]:
    """Rows of a hub corpus, from the mirror or cache where it has them, else from the hub as they are asked for."""
    from datasets import load_dataset

    corpus = corpora.lookup(name)
    pattern = dict(corpus.files)[use]
    if found := corpora.files(name, use, data_dir):
        kind = "parquet" if found[0].suffix == ".parquet" else "json"
        rows = load_dataset(kind, data_files=[str(f) for f in found], split="train", streaming=True)
    else:
        revision = _hub_revision(name, data_dir)
        rows = load_dataset(corpus.hub, data_files=pattern, split="train", revision=revision, streaming=True)
    for row in rows:
        text = row[corpus.column]
        if text.strip():
            yield text


def _hub_revision(name: str, data_dir: Path | None) -> str:
    """The commit a hub corpus is at now.

    Raises:
        UserError: it is not for training, or the hub does not answer or refuses.
    """
    corpus = corpora.lookup(name)
    if "training" not in dict(corpus.files):
        raise UserError(f"{name} is no training corpus: take another training.data")
    repository = hub.Repository(
        corpus.hub,
        "dataset",
        f"training corpus {name}",
        "train on wiki-mini or on a text file of yours",
        tuple(r / corpus.hub for r in hub.roots(data_dir)),
    )
    return repository.latest().revision


def _is_local(name: str) -> bool:
    return os.sep in name or name.endswith(TEXT_SUFFIXES)


def _local_files(name: str) -> list[Path]:
    path = Path(name)
    found = [path] if path.is_file() else sorted(f for s in TEXT_SUFFIXES for f in path.glob(f"*{s}"))
    if not found:
        raise UserError(f"training text {name!r} is not there, or holds no {' or '.join(TEXT_SUFFIXES)} file")
    return found
