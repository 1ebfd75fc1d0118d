"""Bits per byte of a text, which other tokenizers and languages share, and tokens per byte."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from bench.measures.contract import MeasureContext, Readings
from bench.measures.perplexity import WindowLosses
from bench.measures.window_pass import LogitPart
from bench.measures.windowed import Windowed, Windows, mean_and_stderr
from bench.results.record import Item, Reading
from methods.contract.measure_info import MeasureInfo, Metric

BYTE_TOKEN_LENGTH = len("<0x00>")


@dataclass(frozen=True)
class TextBits(Windowed):
    """Cross-entropy in bits per byte of the predicted text, and tokens per byte.

    The windows are those of `perplexity`, in the same pass. Items: bits of each window. Beside
    them: its predicted tokens. The weight is their bytes.
    """

    name: ClassVar[str] = "text_bits"
    info: ClassVar[MeasureInfo] = MeasureInfo(
        metrics=(
            Metric(
                "text_bits_per_byte", "bits/byte", "lower", "bits/byte", 0.0,
                aggregation="window mean", order=12, margin=0.01,
            ),
            Metric(
                "tokens_per_byte", "tokens/byte", "", "tokens/byte", 0.0,
                aggregation="window mean", order=13,
            ),
        )
    )  # fmt: skip

    def reader(self, windows: Windows, context: MeasureContext) -> WindowBits:
        return WindowBits(windows, context.tokenizer())


class WindowBits:
    """Cross-entropy of each window in bits, and the bytes of its predicted tokens."""

    def __init__(self, windows: Windows, tokenizer: Any) -> None:
        self._windows, self._tokenizer = windows, tokenizer
        self._losses = WindowLosses(windows)

    def take(self, part: LogitPart) -> None:
        self._losses.take(part)

    def finish(self) -> Readings:
        targets = self._windows.tokens[:, 1:].tolist()
        lengths = bytes_of({token for window in targets for token in window}, self._tokenizer)
        items = []
        for i, (window, nats) in enumerate(zip(targets, self._losses.losses, strict=True)):
            size = float(sum(lengths[token] for token in window))
            beside = {"tokens_per_byte": float(len(window))}
            cluster = self._windows.clusters[i]
            items.append(Item(str(i), cluster, nats / math.log(2), size, beside))
        bits = _per_byte("text_bits_per_byte", [item.value for item in items], items)
        tokens = [item.beside["tokens_per_byte"] for item in items]
        return Readings((bits, _per_byte("tokens_per_byte", tokens, items)), tuple(items))


def _per_byte(metric: str, values: list[float], items: list[Item]) -> Reading:
    sizes = [item.weight for item in items]
    _, stderr = mean_and_stderr([v / size for v, size in zip(values, sizes, strict=True)])
    return Reading(metric, math.fsum(values) / math.fsum(sizes), stderr=stderr, n=len(items))


def bytes_of(tokens: Iterable[int], tokenizer: Any) -> dict[int, int]:
    """Return the number of bytes of text in each token.

    A byte-level vocabulary writes each byte as one character. Others write a space as "▁", and a
    single byte as <0x41>. tokenizer: of transformers, with a Rust tokenizer.
    """
    decoder = tokenizer.backend_tokenizer.decoder
    is_byte_level = decoder is not None and b"ByteLevel" in decoder.__getstate__()
    added = tokenizer.added_tokens_decoder
    lengths = {}
    for token in tokens:
        text = str(tokenizer.convert_ids_to_tokens(token))
        if token in added:
            lengths[token] = len(str(added[token]).encode())
        elif is_byte_level:
            lengths[token] = len(text)
        elif text.startswith("<0x") and len(text) == BYTE_TOKEN_LENGTH:
            lengths[token] = 1
        else:
            lengths[token] = len(text.replace("▁", " ").encode())
    return lengths
