"""Token blocks cut from corpora: evaluation windows, calibration crops, and whether there are enough of them."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.inputs.corpora import documents, lookup
from methods.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

MAX_TOKENIZED_BYTES = 4_000_000
"""Of text that is tokenized within a few seconds."""
MAX_SPECIAL_TOKENS = 2
"""Tokens that a tokenizer may add to a text, when its model is loaded if not before."""


def load_windows(
    name: str, tokenizer: Any, seqlen: int, count: int | None, data_dir: Path | None, split: str = "evaluation"
) -> tuple[Tensor, list[str]]:
    """The corpus tokenized once, as a whole, in windows without overlap; the tail is dropped.

    Returns:
        int64 [windows, seqlen], and for each window the number of the article it begins in.

    Raises:
        UserError: not one window long, or fewer windows than were asked for.
    """
    import torch

    texts, whole = _join_documents(name, split, data_dir)
    encoded = tokenizer(whole, return_offsets_mapping=True)
    ids = encoded["input_ids"]
    if not (available := len(ids) // seqlen) or (count and count > available):
        raise UserError(_too_few(name, len(ids), seqlen, count))
    used = count or available
    starts = _article_starts(texts, len(lookup(name).joiner))
    article, clusters = 0, []
    for k in range(used):
        at = encoded["offset_mapping"][k * seqlen][0]
        while article + 1 < len(starts) and starts[article + 1] <= at:
            article += 1
        clusters.append(str(article))
    return torch.tensor(ids[: used * seqlen]).view(used, seqlen), clusters


def _join_documents(name: str, split: str, data_dir: Path | None) -> tuple[Sequence[str], str]:
    """The documents that are read, and the one text they make."""
    corpus = lookup(name)
    texts = documents(name, split, data_dir)[: corpus.rows]
    return texts, corpus.joiner.join(texts)


def _too_few(name: str, tokens: int, seqlen: int, count: int | None, at_most: str = "") -> str:
    if tokens < seqlen:
        return f"{name} has {at_most}{tokens} tokens, not one window of perplexity.seqlen={seqlen}: take a shorter one"
    return f"{name} has {at_most}{tokens // seqlen} windows of {seqlen} tokens, not perplexity.windows={count}: ask for no more, or leave it out for all"


def _article_starts(texts: Sequence[str], gap: int) -> list[int]:
    """Character offsets in the joined text: of each document, or of each title row where rows are paragraphs."""
    offsets, at = [], 0
    for text in texts:
        offsets.append(at)
        at += len(text) + gap
    titles = [o for o, t in zip(offsets, texts, strict=True) if re.fullmatch(r" = [^=].* = \n?", t)]
    return titles or offsets


def draw_calibration(
    name: str, sequences: int, seqlen: int, seed: int, encode: Callable[[str], list[int]], data_dir: Path | None
) -> list[list[int]]:
    """Random crops of random documents longer than a sequence, as SparseGPT and Wanda draw them, with replacement.

    Raises:
        UserError: no document is long enough.
    """
    texts = documents(name, "calibration", data_dir)
    draw = random.Random(seed)
    eligible = [i for i, t in enumerate(texts) if len(t.encode()) > seqlen]  # a token is a byte at least
    tokens: dict[int, list[int]] = {}
    crops: list[list[int]] = []
    while len(crops) < sequences:
        if not eligible:
            raise UserError(_too_long(name, seqlen))
        i = draw.choice(eligible)
        if i not in tokens:
            tokens[i] = encode(texts[i])
        if len(tokens[i]) <= seqlen:
            eligible.remove(i)
            continue
        start = draw.randrange(len(tokens[i]) - seqlen)
        crops.append(tokens[i][start : start + seqlen])
    return crops


def check_windows(
    name: str,
    seqlen: int,
    count: int | None,
    tokenizer_json: Path,
    data_dir: Path | None,
    split: str = "evaluation",
) -> None:
    """Find out before anything is loaded whether a corpus that is here has the windows that are asked for.

    A quarter of what the evaluation text of that name has is taken for granted; beyond it the text is tokenized, or,
    where that would take long or the model has no tokenizer.json, its bytes are counted: a token is one at least.

    Raises:
        UserError: it has fewer.
    """
    wanted = seqlen * (count or 1)
    if split == "evaluation" and 4 * wanted <= lookup(name).tokens:
        return
    _, text = _join_documents(name, split, data_dir)
    size = len(text.encode())
    exact = size <= MAX_TOKENIZED_BYTES and tokenizer_json.exists()
    tokens = _token_counter(tokenizer_json)(text) if exact else size
    if tokens + MAX_SPECIAL_TOKENS < wanted:
        raise UserError(_too_few(name, tokens, seqlen, count, "" if exact else "at most "))


def check_calibration(name: str, seqlen: int, tokenizer_json: Path, data_dir: Path | None) -> None:
    """Find out before anything is loaded whether any document is long enough, longest first.

    Raises:
        UserError: none is.
    """
    tokens_in = _token_counter(tokenizer_json)
    for text in sorted(documents(name, "calibration", data_dir), key=len, reverse=True):
        if len(text.encode()) <= seqlen:
            break
        if tokens_in(text) > seqlen:
            return
    raise UserError(_too_long(name, seqlen))


def _token_counter(tokenizer_json: Path) -> Callable[[str], int]:
    """How many tokens a text has."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_json))
    tokenizer.no_truncation()  # some files ask for it
    return lambda text: len(tokenizer.encode(text).ids)


def _too_long(name: str, seqlen: int) -> str:
    return f"no document of {name} is longer than calibration.seqlen={seqlen} tokens: take a shorter one, or another corpus (calibration.data)"


def token_digest(tokens: Any) -> str:
    """sha256 of a block of tokens: two records may be compared only where these agree."""
    rows = tokens if isinstance(tokens, list) else tokens.tolist()
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
