"""Trellis codes of rotated weights: QTIP (arXiv 2406.11235), with its computed code 1MAD.

A tile of 16 x 16 weights is a sequence of 256 symbols, which form a ring. Symbol t and those before
it are the bits of a state, s_t = (s_{t-1} * 2^bits + b_t) mod 2^memory, and the number of t is
computed from s_t. The Viterbi algorithm finds the symbols.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from bench.parts.codebooks.rotated import (
    RotatedCodec,
    RotatedQuantizer,
    compensate_tiles_,
)
from bench.parts.packed24 import native
from bench.system import provenance
from bench.system.devices import KERNEL_PATH
from methods.contract.info import Cost, MethodInfo
from methods.contract.method import Needs

TILE = 16
"""Rows and columns of a tile."""
STEPS = TILE * TILE
"""Symbols of a sequence."""
UNIT = 1 / 8192
"""Step of the numbers of states and of the weights that are searched, which are int16."""
GAP = 55
"""Units between neighboring numbers of states, whose standard deviation is then about 1."""
MOST = 65535
"""Largest cost of a path, in units of 1 / 2048. Larger costs become this."""
HALF = 48
"""Steps before and after the first symbol by which the ring's overlap is found. The whole sequence
lowers the error by 0.1 to 0.3%, and takes 1.5 times as long."""
SPREAD = {2: 1.04, 3: 1.11, 4: 1.17}
"""Units of a weight's scale over the standard deviation of the weights, by bits, for the least
error."""
BATCH = 64
"""Number of sequences that torch searches at a time."""
PATHS = {"avx512": ("-mavx512f", "-mavx512bw"), "avx2": ("-mavx2",), "portable": ()}
"""Flags of the compiler by the instructions that it may use, the fastest first. All give the same
symbols."""


def numbers(states: Tensor) -> Tensor:
    """Return the numbers of states in units of UNIT, int32: 1MAD, the sum of the four bytes of one
    product and sum, which is almost Gaussian."""
    x = states.long() * 34038481 + 76625530
    total = (x & 255) + (x >> 8 & 255) + (x >> 16 & 255) + (x >> 24 & 255)
    return ((total - 510) * GAP).int()


def _whole(x: Tensor) -> Tensor:
    """Return numbers in units of UNIT, int16 of the same shape. Those beyond 4 become about 4."""
    return (x / UNIT).round().clamp(-32768, 32767).to(torch.int16)


def states(symbols: Tensor, bits: int, memory: int) -> Tensor:
    """Return the states of rings of symbols: uint8 [..., STEPS] -> int32 [..., STEPS]."""
    wide, found = symbols.int(), torch.zeros_like(symbols, dtype=torch.int32)
    for i in range(-(-memory // bits)):
        found |= wide.roll(i, -1) << (bits * i)
    return found & ((1 << memory) - 1)


def search(x: Tensor, bits: int, memory: int) -> Tensor:
    """Return the symbols of the rings nearest to sequences: float32 [n, STEPS] -> uint8 [n,
    STEPS].

    The native library does it on a CPU, and torch on cards and without a compiler. Both give the
    same symbols.
    """
    whole = _whole(x)
    library = load() if x.device.type == "cpu" else None
    if library is None:
        pieces = [search_in_torch(piece, bits, memory) for piece in whole.split(BATCH)]
        return torch.cat(pieces)
    whole = whole.contiguous()
    symbols = torch.empty(whole.shape, dtype=torch.uint8)
    library.viterbi_encode(
        bits,
        memory,
        whole.data_ptr(),
        len(whole),
        HALF,
        symbols.data_ptr(),
        torch.get_num_threads(),
    )
    return symbols


@cache
def load(path: str = "") -> ctypes.CDLL | None:
    """Return the native library; None without a C++ compiler.

    path: a key of PATHS. By default $BENCH_KERNEL_PATH if it is one, else the best one of this
    processor.
    """
    known = provenance.cpu_flags()
    able = [name for name, flags in PATHS.items() if all(flag[2:] in known for flag in flags)]
    named = path or os.environ.get(KERNEL_PATH, "")
    chosen = named if named in able else able[0]
    try:
        library = native.load_library(Path(__file__).with_name("viterbi.cpp"), *PATHS[chosen])
    except native.NoKernel:
        return None
    pointer, size, number = ctypes.c_void_p, ctypes.c_long, ctypes.c_int
    library.viterbi_encode.argtypes = [number] * 2 + [pointer] + [size] * 2 + [pointer, number]
    library.viterbi_encode.restype = None
    return library


def search_in_torch(x: Tensor, bits: int, memory: int) -> Tensor:
    """Return what viterbi.cpp does: the symbols of int16 [n, STEPS], uint8 [n, STEPS].

    A cost belongs to an overlap: the upper bits of a state, which are the lower bits of the state
    before it.
    """
    trellis = _Trellis(numbers(torch.arange(1 << memory, device=x.device)), bits, memory)
    count, x = len(x), x.int()
    free = torch.zeros(count, trellis.overlaps, dtype=torch.int32, device=x.device)
    around = x.roll(HALF, 1)[:, : 2 * HALF]
    costs = trellis.forward(around, free)
    tie, _ = trellis.back(around, costs, costs[-1].argmin(1), stop=HALF)
    tied = torch.full_like(free, MOST).scatter_(1, tie.unsqueeze(1), 0)
    _, symbols = trellis.back(x, trellis.forward(x, tied), tie, stop=0)
    return symbols


@dataclass(frozen=True)
class _Trellis:
    """Steps of the Viterbi algorithm, for many sequences."""

    code: Tensor
    bits: int
    memory: int

    @property
    def overlaps(self) -> int:
        return 1 << (self.memory - self.bits)

    def forward(self, x: Tensor, start: Tensor) -> list[Tensor]:
        """Return the costs before each step and after the last: int32 [n, overlaps] each."""
        costs = [start]
        for t in range(x.shape[1]):
            before = costs[-1]
            spread = before.repeat_interleave(1 << self.bits, 1)
            paths = (spread + _square(x[:, t, None] - self.code)).clamp_(max=MOST)
            least = paths.view(len(x), -1, self.overlaps).amin(1)
            costs.append(least - before.amin(1, keepdim=True))
        return costs

    def back(
        self, x: Tensor, costs: list[Tensor], overlap: Tensor, stop: int
    ) -> tuple[Tensor, Tensor]:
        """Follow the best paths back. Return the overlaps [n] before step `stop`, and the symbols
        from it on, uint8 [n, steps]."""
        above = torch.arange(1 << self.bits, device=x.device) * self.overlaps
        symbols: list[Tensor] = []
        for t in range(x.shape[1] - 1, stop - 1, -1):
            before = above + overlap.unsqueeze(1)
            arriving = costs[t].gather(1, before >> self.bits)
            paths = (arriving + _square(x[:, t, None] - self.code[before])).clamp_(max=MOST)
            state = before.gather(1, paths.argmin(1, keepdim=True)).squeeze(1)
            symbols.append((state & ((1 << self.bits) - 1)).to(torch.uint8))
            overlap = state >> self.bits
        return overlap, torch.stack(symbols[::-1], 1)


def _square(difference: Tensor) -> Tensor:
    """Return squares in units of 1 / 2048, rounded half up. difference: int32, in units of UNIT."""
    near = difference.clamp(-32768, 32767)
    return (near * near + (1 << 14)) >> 15


@dataclass(frozen=True)
class TrellisCodec(RotatedCodec):
    """Symbols of a tail-biting trellis, at the places of their weights in whole tiles."""

    name: ClassVar[str] = "trellis"
    memory: int = 12

    def points(self, parts: Mapping[str, Tensor]) -> Tensor:
        codes = parts["codes"]
        found = self._decode(_sequences(codes.T))
        return _columns(found, codes.shape[1]).T

    def _decode(self, symbols: Tensor) -> Tensor:
        """Return the numbers of rings of symbols, float32 [n, STEPS]."""
        return numbers(states(symbols, self.width, self.memory)).float() * UNIT

    def encode(self, weight: Tensor, factor: Tensor) -> dict[str, Tensor]:
        """Return the parts of a turned weight, float32 [out, in].

        factor: U, upper triangular [in, in], with U^T U = H^-1 of the turned Hessian.
        """
        codes, scales = [], []

        def quantize(a: int, w: Tensor) -> Tensor:
            missing = (0, -w.shape[1] % TILE, 0, -len(w) % TILE)
            scale = (self.scale(w).float() * SPREAD[self.width]).bfloat16()
            sequences = _sequences(torch.nn.functional.pad(w, missing) / scale.float())
            symbols = search(sequences, self.width, self.memory)
            codes.append(_columns(symbols, TILE))
            scales.append(scale)
            values = _columns(self._decode(symbols), TILE) * scale.float()
            return values[: len(w), : w.shape[1]]

        compensate_tiles_(weight, factor, quantize, TILE)
        return {"codes": torch.cat(codes).T.contiguous(), "scales": torch.stack(scales)}


def _sequences(columns: Tensor) -> Tensor:
    """Return the tiles of a transposed weight [in, out] as sequences [n, STEPS], column by
    column."""
    tiles = columns.unflatten(0, (-1, TILE)).unflatten(2, (-1, TILE))
    sequences: Tensor = tiles.transpose(1, 2).reshape(-1, STEPS)
    return sequences


def _columns(sequences: Tensor, width: int) -> Tensor:
    """Return the transposed weight [in, out] of sequences, with `width` inputs."""
    tiles = sequences.view(width // TILE, -1, TILE, TILE)
    return tiles.transpose(1, 2).reshape(width, -1)


@dataclass(frozen=True)
class Tcq2(RotatedQuantizer):
    """2-bit trellis codes of rotated weights. The fields are those of tcq3."""

    name: ClassVar[str] = "tcq2"
    width: ClassVar[int] = 2
    needs: ClassVar[Needs] = Needs.CALIBRATION | Needs.TEACHER
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="2406.11235",
        cost=Cost(
            passes=6, hessians=3, tuning="tune", also="a search of 2^memory states for each weight"
        ),
    )
    memory: Annotated[int, Field(ge=9, le=16)] = 12

    def codec(self, shape: tuple[int, int]) -> TrellisCodec:
        return TrellisCodec(self.width, shape, self.memory)


class Tcq3(Tcq2):
    """3-bit trellis codes of rotated weights, with feedback between tiles; not after pruning.

    damping: fraction of H's mean diagonal that is added to the diagonal. memory: bits of a state.
    One more bit doubles the time, and lowers the error. asymmetry: share of the way from each
    weight to the one whose outputs, on the inputs after the quantized linears, are nearest to those
    of the model before; 0 for mixtures of experts. tune: training steps in a block after the
    linears of each input are fixed, and twice as many through the model at the end; 0 for none.
    tune_rate: learning rate in a block, in units of each parameter's root mean square. last_rate:
    learning rate at the end.
    """

    name = "tcq3"
    width = 3


class Tcq4(Tcq2):
    """4-bit trellis codes of rotated weights. The fields are those of tcq3."""

    name = "tcq4"
    width = 4
