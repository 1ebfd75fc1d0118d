"""Native libraries, compiled on first use by a C++ compiler, kept in the cache, called by ctypes;
and the one of 2:4 products."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from bench.system import provenance
from bench.system.cache import cache_dir
from bench.system.devices import KERNEL_PATH
from methods.contract.errors import UserError

FLAGS = (
    "-O3",
    "-std=c++17",
    "-shared",
    "-fPIC",
    "-fopenmp" if sys.platform != "darwin" else "-pthread",
)
"""Compiler flags without -march: each path names its instructions, so one file runs on any machine.

OpenMP shares torch's threads if torch was built with the same library. Apple's compiler has no
OpenMP, so the kernel uses one thread there.
"""
PATHS = ("portable", "avx2", "avx512", "avx512bf16")
"""Implementations, the simplest first."""
COMPILER_ENV = "CXX"
CPU_FLAGS = (
    "avx", "avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vbmi",
    "avx512_vbmi2", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16",
)  # fmt: skip
"""Processor flags as Linux spells them. A compiler that uses such instructions everywhere has a
macro for each."""


class NoKernel(Exception):
    """A kernel that this machine cannot use. The message is a short reason."""


class Kernel:
    """The loaded library, and its best path on this processor.

    product: the C function, with the arguments that kernel24.cpp describes. It does not
    check sizes.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        pointer, size, number = ctypes.c_void_p, ctypes.c_long, ctypes.c_int
        self.product, self._read = library.kernel24_product, library.kernel24_read
        self.product.argtypes = (
            [number] * 3 + [pointer] * 4 + [number] + [size] * 3 + [pointer] + [number] * 2
        )
        self.product.restype = None
        self._read.argtypes = [number, pointer, size, number]
        self._read.restype = ctypes.c_uint64
        self.best = PATHS[library.kernel24_best()]
        self._bind = library.kernel24_bind

    @property
    def paths(self) -> tuple[str, ...]:
        """Paths that this processor supports, the simplest first."""
        return PATHS[: PATHS.index(self.best) + 1]

    def bind_torch(self) -> None:
        """Give the library the functions of torch that it needs when a compiled graph calls it."""
        import torch

        suffix = "dylib" if sys.platform == "darwin" else "so"
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / f"libtorch_cpu.{suffix}"))
        names = (
            "get_data_ptr",
            "get_sizes",
            "get_dim",
            "get_dtype",
            "empty_strided",
            "dtype_bfloat16",
        )
        functions = (ctypes.cast(library[f"aoti_torch_{name}"], ctypes.c_void_p) for name in names)
        self._bind((ctypes.c_void_p * len(names))(*functions))

    def read(self, address: int, count: int, threads: int) -> int:
        """Return the sum of `count` bytes, a multiple of 256, as 64-bit numbers, to measure memory
        bandwidth."""
        total: int = self._read(PATHS.index(select_path(self)), address, count, threads)
        return total


def select_path(kernel: Kernel, path: str | None = None) -> str:
    """Return `path`, else $BENCH_KERNEL_PATH, else the best path. Raise UserError if this processor
    lacks the path."""
    named = path or os.environ.get(KERNEL_PATH) or kernel.best
    if named not in kernel.paths:
        where = "path " if path else f"{KERNEL_PATH}="
        raise UserError(
            f"invalid {where}{named!r}: this processor supports {', '.join(kernel.paths)}"
        )
    return named


def source_digest() -> str:
    """Return the sha256 of the kernel's source, a part of the key of its timings."""
    return hashlib.sha256(_source().read_bytes()).hexdigest()


def _source() -> Path:
    return Path(__file__).with_name("kernel24.cpp")


@cache
def load() -> Kernel:
    """Return the kernel. Compile it unless the cache has it. Raise NoKernel without a C++ compiler
    for this processor."""
    # Graphs that torch compiles find its functions among the global symbols.
    return Kernel(load_library(_source(), mode=ctypes.RTLD_GLOBAL))


def load_library(source: Path, *flags: str, mode: int = ctypes.DEFAULT_MODE) -> ctypes.CDLL:
    """Return the library of a C++ file. Compile it unless the cache has it.

    Args:
        flags: for the compiler, in addition to FLAGS.
        mode: that of ctypes.

    Raises:
        NoKernel: there is no C++ compiler for this processor, or it fails.
    """
    compiler = shutil.which(os.environ.get(COMPILER_ENV) or "c++")
    if compiler is None:
        raise NoKernel("no C++ compiler")
    text, assumed = source.read_bytes(), _assumed_flags(compiler)
    known = provenance.cpu_flags()
    if known and (lacking := [flag for flag in assumed if flag not in known]):
        raise NoKernel(
            f"{compiler} writes code for {', '.join(lacking)}, which this processor lacks"
        )
    parts = [*FLAGS, *flags, _version(compiler), platform.machine(), *assumed]
    key = hashlib.sha256("\0".join(parts).encode() + text).hexdigest()
    library = cache_dir() / "native" / f"{source.stem}-{key[:32]}.so"
    if not library.exists():
        _compile([compiler, *FLAGS, *flags], source, library)
    try:
        return ctypes.CDLL(str(library), mode=mode)
    except OSError as fault:
        raise NoKernel(f"its library cannot be loaded ({fault})") from None


def _assumed_flags(compiler: str) -> list[str]:
    """Return the processor flags that a compiler assumes without -march. Wrappers, for example of
    clusters, add some."""
    command = [compiler, *FLAGS, "-dM", "-E", "-x", "c++", os.devnull]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    macros = {words[1] for line in done.stdout.splitlines() if len(words := line.split()) > 1}
    return [flag for flag in CPU_FLAGS if f"__{flag.replace('512_', '512').upper()}__" in macros]


def _version(compiler: str) -> str:
    done = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    return f"{compiler} {done.stdout.partition(chr(10))[0]}"


def _compile(compiler: list[str], source: Path, library: Path) -> None:
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        out = Path(folder) / library.name
        command = [*compiler, "-o", str(out), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not out.exists():
            error = next(
                (line for line in done.stderr.splitlines() if "error" in line), "no error message"
            )
            raise NoKernel(f"the C++ compiler fails: {error}")
        os.replace(out, library)
