"""Where a number was made: kept beside it, never part of it."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
import time
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("cast-bench", "torch", "transformers", "tokenizers", "safetensors", "datasets", "lm_eval", "numpy")
VERSION = version("cast-bench")


def gather() -> dict[str, Any]:
    """Commit, versions, machine, and now."""
    return {
        "commit": commit(),
        "versions": versions(),
        "machine": machine(),
        "recorded": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


@cache
def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


@cache
def commit() -> dict[str, Any]:
    """The commit of this package where it runs from a checkout, and whether the checkout differs from it."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return {"id": None, "dirty": None}
    try:
        git = ["git", "-C", str(here)]
        head = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return {"id": None, "dirty": None}
    return {"id": head, "dirty": bool(changed.strip())}


@cache
def machine() -> dict[str, Any]:
    """cpu_model and isa tell apart what hides behind one name: kernels go by them, and so do the last bits of a sum."""
    about: dict[str, Any] = {"platform": platform.platform(), **_cpu(), "device": None}
    torch = sys.modules.get("torch")
    if torch is not None:
        about["isa"] = torch.backends.cpu.get_cpu_capability()
    if torch is not None and torch.cuda.is_available():
        about["device"] = torch.cuda.get_device_name()
        about["cuda"] = torch.version.cuda
    return about


def processor() -> str:
    """The CPU's name."""
    return _cpu()["cpu"]


def _cpu() -> dict[str, str]:
    told: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines():
            key, _, value = line.partition(":")
            told[key.strip()] = value.strip()
    except OSError:
        pass
    numbers = [told[k] for k in ("cpu family", "model", "stepping") if k in told]
    name = told.get("model name") or platform.processor() or platform.machine()
    return {"cpu": name} | ({"cpu_model": "/".join(numbers)} if numbers else {})


def peak_bytes(device: str) -> int:
    """Highest memory so far: of the CUDA device where one is used, else of this process or the largest it started."""
    torch = sys.modules.get("torch")
    if device.startswith("cuda") and torch is not None:
        return int(torch.cuda.max_memory_allocated())
    scale = 1 if sys.platform == "darwin" else 1024
    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) * scale
