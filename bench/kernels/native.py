"""The native kernel: compiled on first use where there is a C++ compiler, kept in the cache, called by ctypes."""

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
from methods.errors import UserError

FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-fopenmp" if sys.platform != "darwin" else "-pthread")
"""No -march: each path names what it needs, and the processor is asked which to take, so the file serves any machine.
OpenMP's threads are torch's own, where torch was built with the same library; Apple's compiler has none, and one thread
works."""
PATHS = ("portable", "avx2", "avx512", "avx512bf16")
PATH_ENV = "BENCH_KERNEL_PATH"
"""Names one of PATHS in place of the best."""
COMPILER_ENV = "CXX"


class NoKernel(Exception):
    """There is none here, and why, in a phrase."""


class Kernel:
    """The library, and the path of it that is taken."""

    def __init__(self, library: ctypes.CDLL) -> None:
        pointer, whole, number = ctypes.c_void_p, ctypes.c_long, ctypes.c_int
        self._product, self._read = library.kernel24_product, library.kernel24_read
        self._product.argtypes = [number] * 3 + [pointer] * 3 + [number] + [whole] * 3 + [pointer, number]
        self._product.restype = None
        self._read.argtypes = [number, pointer, whole, number]
        self._read.restype = ctypes.c_uint64
        self.best = PATHS[library.kernel24_best()]

    @property
    def paths(self) -> tuple[str, ...]:
        """Those this processor has, the plainest first."""
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
        """y = x W^T for addresses in memory laid out as assets/kernel24.cpp says. wide: x is float32, which int8 alone
        takes. Sizes are the caller's to get right."""
        isa = PATHS.index(path or select_path(self))
        self._product(isa, int8, dense, weight, scale, x, wide, rows, width, out, y, threads)

    def read(self, address: int, count: int, threads: int) -> int:
        """The sum of `count` bytes, a multiple of 256, as 64-bit numbers: as fast as memory can be read."""
        found: int = self._read(PATHS.index(select_path(self)), address, count, threads)
        return found


def select_path(kernel: Kernel) -> str:
    """The path named by $BENCH_KERNEL_PATH, else the best.

    Raises:
        UserError: a path that there is none of, or not on this processor.
    """
    named = os.environ.get(PATH_ENV) or kernel.best
    if named not in kernel.paths:
        raise UserError(f"{PATH_ENV}={named!r} will not do: this processor has {', '.join(kernel.paths)}")
    return named


def source_digest() -> str:
    """Of the kernel's source: part of the key of what it is timed for."""
    return hashlib.sha256(_source().read_bytes()).hexdigest()


def _source() -> Path:
    return Path(str(resources.files("bench"))) / "assets" / "kernel24.cpp"


@cache
def load() -> Kernel:
    """
    Raises:
        NoKernel: no C++ compiler, or it fails.
    """
    source = _source()
    compiler = shutil.which(os.environ.get(COMPILER_ENV) or "c++")
    if compiler is None:
        raise NoKernel("no C++ compiler")
    text = source.read_bytes()
    key = hashlib.sha256("\0".join([*FLAGS, _version(compiler), platform.machine()]).encode() + text).hexdigest()
    made = cache_dir() / "native" / f"kernel24-{key[:32]}.so"
    if not made.exists():
        _compile(compiler, source, made)
    try:
        return Kernel(ctypes.CDLL(str(made)))
    except OSError as fault:
        raise NoKernel(f"its library cannot be loaded ({fault})") from None


def _version(compiler: str) -> str:
    asked = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    return f"{compiler} {asked.stdout.partition(chr(10))[0]}"


def _compile(compiler: str, source: Path, made: Path) -> None:
    made.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=made.parent) as room:
        out = Path(room) / made.name
        asked = [compiler, *FLAGS, "-o", str(out), str(source)]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        if done.returncode or not out.exists():
            said = next((line for line in done.stderr.splitlines() if "error" in line), "no word why")
            raise NoKernel(f"the C++ compiler fails: {said}")
        os.replace(out, made)
