"""Training text as packed tokens: tokenized once, kept on disk, and cut into sequences in a new
random order each epoch.

An end-of-text token follows each document. A sequence may begin anywhere in a document, after BOS
under `bench.inputs.bos`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from bench.inputs import corpora, hub, own_text
from bench.inputs.bos import Bos, first_tokens
from bench.inputs.mixtures import shares_of
from bench.system import digests
from bench.system.cache import cache_dir
from bench.system.files import atomic_write
from methods.contract.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

BATCH_DOCUMENTS = 256
"""Number of documents that are tokenized together."""
PIECE = 2**20
"""Number of tokens in memory while tokens are written."""
HELD_OUT_SEQUENCES = 64
"""Number of sequences at the end of a corpus that serve as its validation split if it has none."""
MAX_VALIDATION_WINDOWS = 256

Tokens = np.ndarray[Any, Any]


@dataclass(frozen=True)
class PackedCorpus:
    """A corpus for the trainer, in steps of `sequences` sequences.

    ids: tokens of the text. seqlen: tokens in a sequence, with those of `first`, which are at its
    start.
    """

    ids: np.ndarray[Any, Any]
    seqlen: int
    sequences: int
    seed: int
    first: tuple[int, ...] = ()

    @property
    def step_tokens(self) -> int:
        return self.sequences * self.seqlen

    @property
    def tokens(self) -> int:
        return len(self.ids)

    @cached_property
    def digest(self) -> str:
        order = f"{self.seqlen} {self.sequences} {self.seed} {self.ids.dtype}"
        if self.first:
            order += f" {self.first}"
        return hashlib.sha256(order.encode() + np.ascontiguousarray(self.ids).data).hexdigest()

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Tensor:
        """Return the sequences of a rank in a step: int64 [sequences / world, seqlen].

        Each epoch shifts the text by a random offset of less than two sequences, and then shuffles
        the sequences.
        """
        import torch  # slow to import

        if self.sequences % world:
            raise ValueError(f"{world} processes cannot share a step of {self.sequences} sequences")
        share = self.sequences // world
        first = step * self.sequences + rank * share
        rows = [self._sequence(k) for k in range(first, first + share)]
        return torch.from_numpy(np.stack(rows).astype(np.int64))

    def _sequence(self, k: int) -> np.ndarray[Any, Any]:
        width = self.seqlen - len(self.first)
        # A shift needs room, so an epoch may have one sequence fewer than fit.
        per_epoch = (len(self.ids) - width + 1) // width or 1
        epoch, place = divmod(k, per_epoch)
        shift, order = _draw_epoch(self.seed, epoch, per_epoch, len(self.ids) - per_epoch * width)
        start = shift + order[place] * width
        return np.concatenate(
            [np.array(self.first, self.ids.dtype), self.ids[start : start + width]]
        )


@lru_cache(maxsize=1)
def _draw_epoch(
    seed: int, epoch: int, sequences: int, max_shift: int
) -> tuple[int, np.ndarray[Any, Any]]:
    """Return the shift of an epoch in tokens, and the order of its sequences."""
    rng = np.random.default_rng([seed, epoch])
    return int(rng.integers(0, max_shift + 1)), rng.permutation(sequences)


def content_digest(name: str, data_dir: Path | None) -> str:
    """Return a digest or hub revision that identifies a training corpus or mixture. Raise UserError
    if there is none."""
    shares = shares_of(name)
    if len(shares) > 1:
        parts = [content_digest(part, data_dir) for part in shares]
        return digests.of([*zip(shares.values(), parts, strict=True)])
    if "training" not in corpora.lookup(name).uses:
        raise UserError(f"{name} has no training text: use another training.data")
    return corpora.digest(name, "training", data_dir, fetch=False) or _hub_revision(name, data_dir)


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
    bos: Bos = "",
) -> tuple[PackedCorpus, np.ndarray[Any, Any]]:
    """Return the corpus, and validation windows int64 [windows, seqlen], or raise UserError if one
    step needs more tokens.

    identity: identity of the text and the tokenizer, for the file name of the tokens. need: number
    of training tokens. A large corpus is not read further.
    """
    parts = {
        part: _load_part(part, tokenizer, identity, need, seqlen, data_dir)
        for part in shares_of(name)
    }
    ids, validation = _mix(shares_of(name), parts)
    if len(ids) < sequences * seqlen:
        raise UserError(
            f"{name} has {len(ids):,} tokens to train on and one step takes {sequences} x "
            f"{seqlen}: lower training.batch or training.seqlen, or use another corpus"
        )
    first = tuple(first_tokens(tokenizer, bos))
    width = seqlen - len(first)
    windows = validation[: len(validation) // width * width].reshape(-1, width)[
        :MAX_VALIDATION_WINDOWS
    ]
    windows = np.concatenate([np.full((len(windows), len(first)), first, np.int64), windows], 1)
    return PackedCorpus(ids, seqlen, sequences, seed, first), windows.astype(np.int64)


def _load_part(
    name: str, tokenizer: Any, identity: str, need: int, seqlen: int, data_dir: Path | None
) -> tuple[Tokens, Tokens]:
    """Return the tokens of a corpus for training and for validation."""
    if name == "wiki-mini":
        ids = _load_tokens(name, "training", tokenizer, identity, None, data_dir)
        return ids, _load_tokens(name, "validation", tokenizer, identity, None, data_dir)
    limit = need + (HELD_OUT_SEQUENCES + 1) * seqlen
    ids = _load_tokens(name, "training", tokenizer, identity, limit, data_dir)
    end = max(0, len(ids) - HELD_OUT_SEQUENCES * seqlen)
    return ids[:end], ids[end:]


def _mix(
    shares: dict[str, float], parts: dict[str, tuple[Tokens, Tokens]]
) -> tuple[Tokens, Tokens]:
    """Return the tokens of all parts for training and for validation, in their shares. The shortest
    part for its share decides how many."""
    if len(shares) == 1:
        return parts[next(iter(shares))]
    mixed = []
    for use in (0, 1):
        total = min(len(parts[name][use]) / share for name, share in shares.items())
        taken = [parts[name][use][: int(share * total)] for name, share in shares.items()]
        mixed.append(np.concatenate(taken))
    return mixed[0], mixed[1]


def _load_tokens(
    name: str, use: str, tokenizer: Any, identity: str, limit: int | None, data_dir: Path | None
) -> np.ndarray[Any, Any]:
    key = digests.of([name, use, identity, limit])[:32]
    file = cache_dir() / "tokens" / f"{key}.npy"
    if not file.exists():
        tokens = _tokens(
            _texts(name, use, data_dir, own_text.template_of(tokenizer)), tokenizer, limit
        )
        kind = np.uint16 if len(tokenizer) <= 2**16 else np.uint32
        with atomic_write(file) as temporary, temporary.open("wb") as stream:
            _write_tokens(stream, tokens, np.dtype(kind))
    return np.load(file, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]


def _write_tokens(stream: BinaryIO, tokens: Iterator[int], dtype: np.dtype[Any]) -> None:
    """Write tokens as a .npy file, a piece at a time: a corpus may have billions of tokens."""

    def write_header(count: int) -> None:  # numpy reserves space for any count
        about = {
            "descr": np.lib.format.dtype_to_descr(dtype),
            "fortran_order": False,
            "shape": (count,),
        }
        np.lib.format.write_array_header_1_0(stream, about)

    write_header(0)
    count = 0
    while len(piece := np.fromiter(islice(tokens, PIECE), dtype)):
        stream.write(piece.data)
        count += len(piece)
    stream.seek(0)
    write_header(count)


def _tokens(texts: Iterator[str], tokenizer: Any, limit: int | None) -> Iterator[int]:
    """Yield the first `limit` tokens of the texts, with an end-of-text token after each text."""
    end = tokenizer.eos_token_id
    if end is None:
        raise UserError(
            "the model's tokenizer has no end-of-text token to put between documents: use another "
            "model"
        )

    def tokens() -> Iterator[int]:
        while batch := list(islice(texts, BATCH_DOCUMENTS)):
            for ids in tokenizer(batch, add_special_tokens=False)["input_ids"]:
                yield from ids
                yield end

    yield from islice(tokens(), limit or None)


def _texts(
    name: str, use: str, data_dir: Path | None, render: own_text.Render | None = None
) -> Iterator[str]:
    """Yield the texts of a corpus. Those of the hub come from the mirror or the cache, or are
    streamed."""
    own = own_text.parse(name)
    if own:
        yield from own_text.read(own, render)
        return
    corpus = corpora.lookup(name)
    if not corpus.hub:
        yield from corpora.documents(name, use, data_dir)
        return
    from datasets import load_dataset  # slow to import

    files = corpora.files(name, use, data_dir)
    if files:
        kind = "parquet" if files[0].suffix == ".parquet" else "json"
        rows = load_dataset(kind, data_files=[str(f) for f in files], split="train", streaming=True)
    else:
        revision = _hub_revision(name, data_dir)
        pattern = dict(corpus.files)[use]
        rows = load_dataset(
            corpus.hub, data_files=pattern, split="train", revision=revision, streaming=True
        )
    yield from filter(str.strip, (row[corpus.column] for row in rows))


def _hub_revision(name: str, data_dir: Path | None) -> str:
    """Return the current commit of a hub corpus. Raise UserError if the hub refuses, or a corpus is
    not on the hub."""
    corpus = corpora.lookup(name)
    if isinstance(corpus, corpora.TextSource):
        raise UserError(f"{name} is not on this machine: run bench pull {name}")
    way = "train on wiki-mini or on a text file of yours"
    return hub.data_set(corpus.hub, f"training corpus {name}", way, data_dir).latest().revision
