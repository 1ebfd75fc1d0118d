"""Where a number was measured: commit, versions and machine. Kept in a record, outside its key."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
import time
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench.system.interpreter import ROOT

PACKAGES = ("cast-bench", "torch", "transformers", "tokenizers", "safetensors", "datasets", "lm_eval", "numpy")
VERSION = version("cast-bench")

INSTRUCTION_SETS = {
    "amx": ("amx_tile", "amx_bf16", "amx_int8"),
    "avx512_bf16": ("avx512_bf16",),
    "avx512": ("avx512f", "avx512bw", "avx512dq", "avx512vl"),
    "avx2": ("avx2", "fma"),
    "sse4_2": ("sse4_2",),
    "sve": ("sve",),
    "neon": ("asimd",),
}
"""Level -> the processor flags it needs, as Linux spells them; the highest first."""

ISA_VARIABLES = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR")
"""Environment variables by which torch and its libraries compute with a lower level."""


def gather() -> dict[str, Any]:
    """Commit, versions, machine, and now."""
    return {
        "commit": commit(),
        "versions": versions(),
        "machine": machine(),
        "recorded": format_time(time.time()),
    }


@cache
def versions() -> dict[str, str]:
    """Of Python and PACKAGES; "absent" where one is not installed."""
    out = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            out[name] = "absent"
    return out


@cache
def commit() -> dict[str, Any]:
    """The commit of this package where it runs from a checkout, when it was made, and whether the checkout differs."""
    absent = {"id": None, "dirty": None}
    if not (ROOT / ".git").exists():
        return absent
    try:
        head, seconds = _git("log", "-1", "--format=%H %ct").split()
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, ValueError, subprocess.SubprocessError):
        return absent
    return {"id": head, "dirty": bool(changed.strip()), "time": format_time(int(seconds))}


def describe_version() -> str:
    """The version of this package, and its commit where it runs from a checkout."""
    here = commit()
    changed = ", changed since" if here["dirty"] else ""
    return f"{VERSION} (commit {here['id'][:12]}{changed})" if here["id"] else VERSION


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout


def format_time(seconds: float, timespec: str = "seconds") -> str:
    """A time since the epoch as 2026-01-31T23:59:59Z, or more precisely. timespec: as of datetime.isoformat."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


def machine() -> dict[str, Any]:
    """The platform, the processor and the CUDA device.

    One name, such as "AMD EPYC", covers processors whose kernels differ, and with them the last digits of a sum. These
    fields tell them apart:

        cpu_model        family/model/stepping; on ARM implementer/part/revision
        instruction_set  the highest level the processor has, of INSTRUCTION_SETS
        isa              the level that torch computes with; absent where torch is not imported
        isa_limits       environment variables that lower the level; absent where none is set
    """
    about: dict[str, Any] = {"platform": platform.platform(), **cpu(), "device": None}
    if limits := _isa_limits():
        about["isa_limits"] = limits
    torch = sys.modules.get("torch")
    if torch is not None:
        about["isa"] = torch.backends.cpu.get_cpu_capability()
    if torch is not None and torch.cuda.is_available():
        about["device"] = torch.cuda.get_device_name()
        about["cuda"] = torch.version.cuda
    return about


def processor() -> str:
    """The CPU's name, model and instruction set, and what lowers it: two CPUs of one text run the same kernels."""
    about = cpu()
    parts = (about["cpu"], about.get("cpu_model", ""), about.get("instruction_set", ""))
    return " ".join([*filter(None, parts), *(f"{name}={value}" for name, value in _isa_limits().items())])


@cache
def cpu() -> dict[str, str]:
    """The fields cpu, cpu_model and instruction_set of `machine`, without those the system does not give."""
    if sys.platform == "darwin":
        return _cpu_of_sysctl(_sysctl("machdep.cpu.brand_string"), platform.machine(), _sysctl("machdep.cpu"))
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    return {"cpu": platform.processor() or platform.machine()} | cpu_of_cpuinfo(text)


def cpu_of_cpuinfo(text: str) -> dict[str, str]:
    """The same from the text of Linux's /proc/cpuinfo, of its first processor."""
    rows = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    fields = {key.strip(): value.strip() for key, _, value in rows}
    numbers = [fields[key] for key in ("cpu family", "model", "stepping") if key in fields]
    numbers = numbers or [fields[key] for key in ("CPU implementer", "CPU part", "CPU revision") if key in fields]
    return _cpu(fields.get("model name", ""), numbers, fields.get("flags") or fields.get("Features") or "")


def _cpu_of_sysctl(name: str, machine: str, features: str) -> dict[str, str]:
    """The same on macOS, whose words for features are those of Linux in capitals, with dots."""
    return _cpu(name or machine, [], "asimd" if machine == "arm64" else features.lower().replace(".", "_"))


def _cpu(name: str, numbers: list[str], flags: str) -> dict[str, str]:
    known = set(flags.split())
    level = next((level for level, needed in INSTRUCTION_SETS.items() if known.issuperset(needed)), "")
    fields = {"cpu": name, "cpu_model": "/".join(numbers), "instruction_set": level}
    return {key: value for key, value in fields.items() if value}


def _sysctl(name: str) -> str:
    try:
        return subprocess.run(
            ["sysctl", "-n", name], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _isa_limits() -> dict[str, str]:
    return {name: os.environ[name] for name in ISA_VARIABLES if os.environ.get(name)}


def peak_bytes(device: str) -> int:
    """Highest memory so far: of the CUDA device where one is used, else of this process or the largest it started."""
    torch = sys.modules.get("torch")
    if device.startswith("cuda") and torch is not None:
        return int(torch.cuda.max_memory_allocated())
    scale = 1 if sys.platform == "darwin" else 1024
    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) * scale
