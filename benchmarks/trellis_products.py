"""Decoding with trellis codes on a CPU: y = W x, where weights are decoded in the product, beside
torch in bfloat16 and the formats of llama.cpp.

One thread, one vector, AVX-512. The inputs of a trellis must also be turned, which is not timed.
llama.cpp takes part if llama_cpp can be imported.

python benchmarks/trellis_products.py [--rounds 15]
"""

from __future__ import annotations

import ctypes
import importlib.util
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Figures, finish, in_turn, ratio, significant, start
from torch import Tensor

from bench.parts.codebooks import trellis
from bench.parts.packed24 import native

SIDES = {"layer of 7B": (4096, 4096), "layer of SmolLM2": (1536, 576)}
"""Outputs and inputs. The first is larger than a cache, the second fits one."""
MEMORY = 12
FLAGS = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni")
GGML_F32 = 0
GGML_TYPES = {"Q4_0": 2, "Q3_K": 11, "IQ3_XXS": 18}
POINTER = ctypes.c_void_p


def pack(symbols: Tensor, bits: int) -> Tensor:
    """Return the bytes of rings of symbols, and 8 more: uint8 [n, STEPS] -> uint8 [...]."""
    by_place = symbols.flip(1).numpy()
    planes = np.stack([by_place >> bit & 1 for bit in range(bits)], -1)
    data = np.packbits(planes.reshape(len(symbols), -1), axis=1, bitorder="little")
    return torch.from_numpy(np.pad(data.ravel(), (0, 8)))


def multiply(library: ctypes.CDLL, bits: int, tiles: Tensor, x: Tensor, y: Tensor) -> None:
    """Write W x to y. tiles: bytes of `pack`."""
    library.trellis_product(
        bits, MEMORY, tiles.data_ptr(), x.data_ptr(), y.data_ptr(), len(y), len(x)
    )


def check(library: ctypes.CDLL) -> None:
    """Compare products with those of decoded weights."""
    for bits in (2, 3, 4):
        symbols = torch.randint(1 << bits, (3 * 5, trellis.STEPS), dtype=torch.uint8)
        tiles, x, y = pack(symbols, bits), torch.randn(5 * 16), torch.empty(3 * 16)
        multiply(library, bits, tiles, x, y)
        numbers = trellis.numbers(trellis.states(symbols, bits, MEMORY)).float() / trellis.GAP
        weight = numbers.view(3, 5, 16, 16).permute(0, 3, 1, 2).reshape(48, 80)
        torch.testing.assert_close(y, weight @ x, rtol=1e-3, atol=1e-3 * float(y.abs().max()))


def with_ggml(outputs: int, inputs: int) -> dict[str, Callable[[], Any]]:
    """Return products by llama.cpp's kernels, by format. The weights are random bytes, whose
    numbers do not change the time."""
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        return {}
    folder = Path(spec.origin).parent / "lib"
    base = ctypes.CDLL(str(folder / "libggml-base.so"), mode=ctypes.RTLD_GLOBAL)
    cpu = ctypes.CDLL(str(folder / "libggml-cpu.so"), mode=ctypes.RTLD_GLOBAL)
    base.ggml_init.argtypes = [_Room]
    for name in ("init", "new_tensor_2d", "new_tensor_1d", "mul_mat", "new_graph", "get_data"):
        getattr(base, f"ggml_{name}").restype = POINTER
    base.ggml_new_tensor_2d.argtypes = [POINTER, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    base.ggml_new_tensor_1d.argtypes = [POINTER, ctypes.c_int, ctypes.c_int64]
    base.ggml_mul_mat.argtypes = [POINTER] * 3
    base.ggml_new_graph.argtypes = base.ggml_get_data.argtypes = [POINTER]
    base.ggml_build_forward_expand.argtypes = [POINTER, POINTER]
    base.ggml_nbytes.argtypes, base.ggml_nbytes.restype = [POINTER], ctypes.c_size_t
    cpu.ggml_graph_plan.argtypes = [POINTER, ctypes.c_int, POINTER]
    cpu.ggml_graph_plan.restype = _Plan
    cpu.ggml_graph_compute.argtypes = [POINTER, ctypes.POINTER(_Plan)]
    cpu.ggml_cpu_init()
    works: dict[str, Callable[[], Any]] = {}
    for name, kind in GGML_TYPES.items():
        room = base.ggml_init(_Room(outputs * inputs + 2**23, None, False))
        weight = base.ggml_new_tensor_2d(room, kind, inputs, outputs)
        vector = base.ggml_new_tensor_1d(room, GGML_F32, inputs)
        ctypes.memset(base.ggml_get_data(weight), 0x11, base.ggml_nbytes(weight))
        ctypes.memset(base.ggml_get_data(vector), 0, base.ggml_nbytes(vector))
        graph = base.ggml_new_graph(room)
        base.ggml_build_forward_expand(graph, base.ggml_mul_mat(room, weight, vector))
        plan = cpu.ggml_graph_plan(graph, 1, None)
        work = ctypes.create_string_buffer(plan.work_size)
        plan.work_data = ctypes.addressof(work)
        works[name] = partial(_compute, cpu, graph, plan, work)
    return works


def _compute(cpu: Any, graph: int, plan: _Plan, work: Any) -> None:
    """Compute a graph. work: the memory that the plan names."""
    cpu.ggml_graph_compute(graph, ctypes.byref(plan))


class _Plan(ctypes.Structure):
    """ggml_cplan, whose last fields stay empty."""

    _fields_ = (
        ("work_size", ctypes.c_size_t),
        ("work_data", ctypes.c_void_p),
        ("threads", ctypes.c_int),
        ("rest", ctypes.c_void_p * 8),
    )


class _Room(ctypes.Structure):
    """ggml_init_params."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("buffer", ctypes.c_void_p),
        ("no_alloc", ctypes.c_bool),
    )


def main(rounds: int = 15) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    try:
        library = native.load_library(Path(__file__).with_suffix(".cpp"), *FLAGS)
    except native.NoKernel as fault:
        sys.exit(f"this benchmark needs a C++ compiler for AVX-512: {fault}")
    number, size = ctypes.c_int, ctypes.c_long
    library.trellis_product.argtypes = [number] * 2 + [POINTER] * 3 + [size] * 2
    check(library)
    figures: Figures = {"threads": 1}
    for layer, (outputs, inputs) in SIDES.items():
        x, y = torch.randn(inputs), torch.empty(outputs)
        dense, half = torch.randn(outputs, inputs).bfloat16(), x.bfloat16()
        works: dict[str, Callable[[], Any]] = {"bfloat16": partial(torch.mv, dense, half)}
        works |= with_ggml(outputs, inputs)
        for bits in (2, 3, 4):
            symbols = torch.randint(1 << bits, (outputs * inputs // 256, 256), dtype=torch.uint8)
            tiles = pack(symbols, bits)
            works[f"{bits} bits, 1mad"] = partial(multiply, library, bits, tiles, x, y)
        repeats = max(1, 2**24 // (outputs * inputs))

        def repeated(work: Callable[[], Any], times: int = repeats) -> None:
            for _ in range(times):
                work()

        times = in_turn({name: partial(repeated, work) for name, work in works.items()}, rounds)
        weights = outputs * inputs * repeats
        figures[layer] = {
            name: {
                "billion weights/s": significant(weights / statistics.median(times[name]) / 1e9, 3),
                "bfloat16 / this": ratio(times, "bfloat16", name),
            }
            for name in works
        }
    finish("trellis_products", figures)


if __name__ == "__main__":
    start(main)
