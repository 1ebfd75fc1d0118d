"""The native kernel: compiled on first use by a C++ compiler, kept in the cache, called by ctypes."""

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
from importlib import resources
from pathlib import Path

from bench.system.cache import cache_dir
from bench.system.devices import KERNEL_PATH
from methods.errors import UserError

FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-fopenmp" if sys.platform != "darwin" else "-pthread")
"""No -march: each path names the instructions it needs and the best one is chosen at run time, so the file runs on any
machine. OpenMP shares torch's threads where torch was built with the same library. Apple's compiler has no OpenMP: the
kernel then uses one thread."""
PATHS = ("portable", "avx2", "avx512", "avx512bf16")
"""The ways to compute, the simplest first."""
COMPILER_ENV = "CXX"


class NoKernel(Exception):
    """The kernel cannot be used here. The message is the reason, in a few words."""


class Kernel:
    """The loaded library, and its best path on this processor."""

    def __init__(self, library: ctypes.CDLL) -> None:
        pointer, size, number = ctypes.c_void_p, ctypes.c_long, ctypes.c_int
        self._product, self._read = library.kernel24_product, library.kernel24_read
        self._product.argtypes = [number] * 3 + [pointer] * 3 + [number] + [size] * 3 + [pointer, number]
        self._product.restype = None
        self._read.argtypes = [number, pointer, size, number]
        self._read.restype = ctypes.c_uint64
        self.best = PATHS[library.kernel24_best()]

    @property
    def paths(self) -> tuple[str, ...]:
        """Those that this processor supports, the simplest first."""
        return PATHS[: PATHS.index(self.best) + 1]

    def product(
        self,
        weight: int,
        scale: int | None,
        x: int,
        y: int,
        *,
        int8: bool,
        dense: bool,
        wide: bool,
        rows: int,
        width: int,
        out: int,
        threads: int,
        path: str | None = None,
    ) -> None:
        """y = x W^T, given addresses of memory with the layout that assets/kernel24.cpp describes. wide: x is float32, for
        int8 only. The sizes are not checked.
        """
        isa = PATHS.index(path or select_path(self))
        self._product(isa, int8, dense, weight, scale, x, wide, rows, width, out, y, threads)

    def read(self, address: int, count: int, threads: int) -> int:
        """The sum of `count` bytes (a multiple of 256) as 64-bit numbers, to measure how fast memory can be read."""
        total: int = self._read(PATHS.index(select_path(self)), address, count, threads)
        return total


def select_path(kernel: Kernel) -> str:
    """The path named by $BENCH_KERNEL_PATH, else the best.

    Raises:
        UserError: unknown path, or one that this processor does not support.
    """
    named = os.environ.get(KERNEL_PATH) or kernel.best
    if named not in kernel.paths:
        raise UserError(f"invalid {KERNEL_PATH}={named!r}: this processor supports {', '.join(kernel.paths)}")
    return named


def source_digest() -> str:
    """sha256 of the kernel's source; part of the key of its timings."""
    return hashlib.sha256(_source().read_bytes()).hexdigest()


def _source() -> Path:
    return Path(str(resources.files("bench"))) / "assets" / "kernel24.cpp"


@cache
def load() -> Kernel:
    """The kernel, compiled unless the cache has it.

    Raises:
        NoKernel: no C++ compiler, or it fails.
    """
    source = _source()
    compiler = shutil.which(os.environ.get(COMPILER_ENV) or "c++")
    if compiler is None:
        raise NoKernel("no C++ compiler")
    text = source.read_bytes()
    key = hashlib.sha256("\0".join([*FLAGS, _version(compiler), platform.machine()]).encode() + text).hexdigest()
    library = cache_dir() / "native" / f"kernel24-{key[:32]}.so"
    if not library.exists():
        _compile(compiler, source, library)
    try:
        return Kernel(ctypes.CDLL(str(library)))
    except OSError as fault:
        raise NoKernel(f"its library cannot be loaded ({fault})") from None


def _version(compiler: str) -> str:
    done = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    return f"{compiler} {done.stdout.partition(chr(10))[0]}"


def _compile(compiler: str, source: Path, library: Path) -> None:
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        out = Path(folder) / library.name
        command = [compiler, *FLAGS, "-o", str(out), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not out.exists():
            error = next((line for line in done.stderr.splitlines() if "error" in line), "no error message")
            raise NoKernel(f"the C++ compiler fails: {error}")
        os.replace(out, library)
