"""What a format of `bench export` declares about the programs that run its files."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

DECIDES_NO_NUMBER = True

Shapes = Sequence[tuple[int, ...]]


@dataclass(frozen=True)
class Server:
    """A program that runs exported files."""

    name: str
    """Name after `bench pick --engine`."""
    command: str = ""
    """Command that starts it, with {} for the files. Empty if it has none."""
    out: str = "{}"
    """What --out of the export is, with {} for the name of the model."""


VLLM = Server("vllm", "vllm serve {}")
TRANSFORMERS = Server("transformers", "transformers serve {}")
NATIVE = Server("native")
"""This project."""


@dataclass(frozen=True)
class Form:
    """Rows that some servers run from the files of a format, and the sizes of these files."""

    servers: tuple[Server, ...]
    quantizer: str
    """Expression for names of quantizers. "" is a model without one."""
    bits: float | None = None
    """Bits of a weight in the files. None: those of the quantizer."""
    keeps: bool = False
    """True if the files keep the embedding's format, False if they hold it in the model's own."""
    pattern: str = ""
    """The only pattern, or "" for any. Another pattern is stored dense, with its zeros."""
    packs: bool = False
    """True if the zeros of the pattern take no bytes."""
    floats: float = math.inf
    """Most bits of a weight that is not quantized."""
    usual: Mapping[str, float] = field(default_factory=dict)
    """Bits of a weight of a large model by quantizer, for models without rows."""
    added: Callable[[str, Shapes], float] | None = None
    """Return the bytes that the files add to the quantized weights of the row, from the name of
    the quantizer with its settings and from the shapes [out, in] of the linears."""
