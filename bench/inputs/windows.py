"""Evaluation windows and calibration sequences from corpora, and checks that a corpus has enough of
them."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench.inputs import own_text
from bench.inputs.bos import Bos, encode, first_tokens
from bench.inputs.corpora import Maker, TextSource, documents, lookup
from bench.inputs.mixtures import divide, shares_of
from bench.inputs.own_text import Render, template_of
from bench.inputs.tokenizer_facts import MAX_SPECIAL_TOKENS, TokenizerFacts
from methods.contract.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

MAX_TOKENIZED_BYTES = 4_000_000
"""Largest text that is tokenized for a check, in bytes. It takes a few seconds."""
WINDOWS = "perplexity.windows"
MAX_CALIBRATION_TOKENS = 2**27
"""Largest number of calibration tokens, a gigabyte. Papers use up to 2^24."""

Packing = Literal["crops", "starts", "stream"]
"""How sequences are cut from documents. crops: each is a random crop of one document that is
longer. starts: each begins with a document, and others follow until it is full. stream: documents
in random order are one text that is cut."""


def load_windows(
    name: str,
    tokenizer: Any,
    seqlen: int,
    count: int | None,
    data_dir: Path | None,
    split: str = "evaluation",
    bos: Bos = "",
    *,
    spread: bool = False,
) -> tuple[Tensor, list[str]]:
    """Tokenize a corpus as one text and cut it into windows without overlap. The tail is dropped.

    With BOS, a window has seqlen - 1 tokens of text. spread: take windows at even distances instead
    of the first, so that few span many articles. Return int64 [windows, seqlen], and for each
    window the number of the article in which it begins. Raise UserError if they are fewer than
    `count`.
    """
    import torch  # slow to import

    texts, joined = _join_documents(name, split, data_dir, template_of(tokenizer))
    first = first_tokens(tokenizer, bos)
    encoded = encode(tokenizer, joined, first, return_offsets_mapping=True)
    ids, width = encoded["input_ids"], seqlen - len(first)
    available = len(ids) // width
    if not available or (count and count > available):
        raise UserError(_too_few(name, len(ids), width, seqlen, count))
    used = count or available
    starts = _article_starts(texts, len(lookup(name).joiner))
    article, clusters = 0, []
    chosen = [i * available // used for i in range(used)] if spread else list(range(used))
    for k in chosen:
        at = encoded["offset_mapping"][k * width][0]
        while article + 1 < len(starts) and starts[article + 1] <= at:
            article += 1
        clusters.append(str(article))
    text = torch.tensor(ids[: available * width]).view(available, width)[chosen]
    return torch.cat([text.new_tensor(first).expand(used, -1), text], 1), clusters


def _join_documents(
    name: str, split: str, data_dir: Path | None, render: Render | None = None
) -> tuple[Sequence[str], str]:
    """Return the documents, and one text with all of them."""
    corpus = lookup(name)
    texts = documents(name, split, data_dir, render)[: corpus.rows]
    return texts, corpus.joiner.join(texts)


def _too_few(
    name: str,
    tokens: int,
    width: int,
    seqlen: int,
    count: int | None,
    at_most: str = "",
    setting: str = WINDOWS,
) -> str:
    if tokens < width:
        return (
            f"{name} has {at_most}{tokens} tokens, not one window of perplexity.seqlen={seqlen}: "
            "use a smaller one, or a longer text"
        )
    or_all = "or all, " if setting == WINDOWS else ""
    return (
        f"{name} has {at_most}{tokens // width} windows of {seqlen} tokens, not "
        f"{setting}={count}: use a smaller number, {or_all}or a text of "
        f"{width * (count or 1):,} tokens"
    )


def _article_starts(texts: Sequence[str], gap: int) -> list[int]:
    """Return the character offset of each article in the joined text. An article begins at a title
    row or with a document."""
    offsets, at = [], 0
    for text in texts:
        offsets.append(at)
        at += len(text) + gap
    titles = [o for o, t in zip(offsets, texts, strict=True) if re.fullmatch(r" = [^=].* = \n?", t)]
    return titles or offsets


def draw_calibration(
    name: str,
    sequences: int,
    seqlen: int,
    seed: int,
    encode: Callable[[str], list[int]],
    data_dir: Path | None,
    first: Sequence[int] = (),
    render: Render | None = None,
    maker: Maker | None = None,
    packing: Packing = "crops",
) -> list[list[int]]:
    """Draw sequences of the documents of a corpus or mixture, which are chosen with replacement.

    Args:
        seqlen: tokens in a sequence, with those of `first`, which are at its start.
        render: writes the messages of chat data.
        maker: what a corpus needs that a model makes, and the end-of-text token of packed ones.
        packing: see `Packing`.

    Raises:
        UserError: no document is longer than a crop, or a corpus has no text.
    """
    width, rng = seqlen - len(first), random.Random(seed)
    shares = shares_of(name)
    end = getattr(maker and maker.tokenizer, "eos_token_id", None)
    drawn: list[list[int]] = []
    for part, count in divide(shares, sequences).items():
        texts = _Documents(documents(part, "calibration", data_dir, render, maker), encode)
        if packing == "crops":
            drawn += _draw_crops(part, texts, count, width, rng, len(first))
        else:
            separator = [] if end is None else [end]
            drawn += _pack(part, texts, count, width, rng, separator, packing)
    if len(shares) > 1:
        rng.shuffle(drawn)
    return [[*first, *tokens] for tokens in drawn]


class _Documents:
    """Documents of a corpus. Each is tokenized once, when it is drawn."""

    def __init__(self, documents: Sequence[Any], encode: Callable[[str], list[int]]) -> None:
        self.all, self._encode = documents, encode
        self._tokens: dict[int, list[int]] = {}

    def may_exceed(self, width: int) -> list[int]:
        """Return the documents that may have more than `width` tokens."""
        return [i for i in range(len(self.all)) if self.size(i) > width]

    def size(self, i: int) -> int:
        """Return the largest number of tokens that a document may have."""
        document = self.all[i]
        # A token is at least one byte.
        return len(document.encode()) if isinstance(document, str) else len(document)

    def tokens(self, i: int) -> list[int]:
        if i not in self._tokens:
            document = self.all[i]
            self._tokens[i] = self._encode(document) if isinstance(document, str) else document
        return self._tokens[i]


def _draw_crops(
    name: str, texts: _Documents, count: int, width: int, rng: random.Random, first: int
) -> list[list[int]]:
    """Draw random crops of random documents, as SparseGPT and Wanda do."""
    eligible, longest = texts.may_exceed(width), 0
    crops: list[list[int]] = []
    while len(crops) < count:
        if not eligible:
            if not longest and len(texts.all):
                longest = len(texts.tokens(max(range(len(texts.all)), key=texts.size)))
            raise UserError(_too_long(name, width + first, longest + first))
        i = rng.choice(eligible)
        tokens = texts.tokens(i)
        longest = max(longest, len(tokens))
        if len(tokens) <= width:
            eligible.remove(i)
            continue
        start = rng.randrange(len(tokens) - width)
        crops.append(tokens[start : start + width])
    return crops


def _pack(
    name: str,
    texts: _Documents,
    count: int,
    width: int,
    rng: random.Random,
    end: list[int],
    packing: Packing,
) -> list[list[int]]:
    """Join random documents, each followed by `end`, and cut sequences from them."""
    if not any(map(texts.size, range(len(texts.all)))):
        raise UserError(f"{name} has no text for calibration: use another corpus")
    order: list[int] = []
    packed: list[list[int]] = []
    buffer: list[int] = []
    while len(packed) < count:
        while len(buffer) < width:
            if not order:
                order = rng.sample(range(len(texts.all)), len(texts.all))
            buffer += texts.tokens(order.pop()) + end
        packed.append(buffer[:width])
        buffer = [] if packing == "starts" else buffer[width:]
    return packed


def check_windows(
    name: str,
    seqlen: int,
    count: int | None,
    tokenizer: TokenizerFacts,
    data_dir: Path | None,
    split: str = "evaluation",
    *,
    first: int = 0,
    max_tokenized_bytes: int = MAX_TOKENIZED_BYTES,
    setting: str = WINDOWS,
) -> None:
    """Check that a local corpus has enough windows, before a model is loaded.

    A quarter of the known size of the evaluation text passes unseen. Beyond that the text is
    tokenized. Bytes are counted for a text larger than `max_tokenized_bytes`, and without
    tokenizer.json: a token is at least one byte.

    Args:
        first: number of tokens in a window that are no text.
        setting: where `count` comes from, for the message.

    Raises:
        UserError: the corpus has fewer windows.
    """
    width = seqlen - first
    needed = width * (count or 1)
    if split == "evaluation" and 4 * needed <= lookup(name).tokens:
        return
    _, text = _join_documents(name, split, data_dir)
    size = len(text.encode())
    exact = size <= max_tokenized_bytes and tokenizer.exists
    tokens = tokenizer.count_tokens(text) if exact else size
    # Else a worker counts.
    if tokens + MAX_SPECIAL_TOKENS < needed and not own_text.has_messages(name):
        at_most = "" if exact else "at most "
        raise UserError(_too_few(name, tokens, width, seqlen, count, at_most, setting))


def check_calibration(
    name: str,
    sequences: int,
    seqlen: int,
    tokenizer: TokenizerFacts,
    data_dir: Path | None,
    first: int = 0,
    packing: Packing = "crops",
) -> None:
    """Refuse a corpus with fewer different crops than sequences, before a model is loaded.

    first: number of tokens in a sequence that are no text.
    """
    if sequences * seqlen > MAX_CALIBRATION_TOKENS:
        raise UserError(
            f"calibration.sequences={sequences} of {seqlen} tokens are more than "
            f"{MAX_CALIBRATION_TOKENS:,} tokens: use fewer"
        )
    if packing != "crops":
        return
    for part, count in divide(shares_of(name), sequences).items():
        source = lookup(part)
        if count and not (isinstance(source, TextSource) and source.by_model):
            _check_crops(part, count, seqlen, tokenizer, data_dir, first)


def _check_crops(
    name: str,
    sequences: int,
    seqlen: int,
    tokenizer: TokenizerFacts,
    data_dir: Path | None,
    first: int,
) -> None:
    width = seqlen - first
    texts = documents(name, "calibration", data_dir)
    crops = 0
    for text in texts:
        crops += max(0, len(text.encode()) - width)  # a token is at least one byte
        if crops >= sequences:
            break
    else:
        if crops and not own_text.has_messages(name):
            raise UserError(
                f"calibration.sequences={sequences} is more than the {crops} crops of {seqlen} "
                f"tokens that {name} has at most: use fewer, or another corpus (calibration.data)"
            )
    longest = 0
    for text in sorted(texts, key=len, reverse=True):
        if longest and len(text.encode()) <= width:
            break
        longest = max(longest, tokenizer.count_tokens(text))
        if longest > width:
            return
    if not own_text.has_messages(name):  # else a worker counts
        raise UserError(_too_long(name, seqlen, longest + first))


def _too_long(name: str, seqlen: int, longest: int) -> str:
    return (
        f"no document of {name} is longer than calibration.seqlen={seqlen} tokens, the longest "
        f"has {longest}: use a smaller one, calibration.packing=starts, or another corpus "
        "(calibration.data)"
    )


def token_digest(tokens: Any) -> str:
    """Return the sha256 of a block of tokens. Two records are compared only if these are equal."""
    rows = tokens if isinstance(tokens, list) else tokens.tolist()
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
