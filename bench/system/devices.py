"""Which processors a run may use."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from bench.system import provenance
from methods.errors import UserError


def cores() -> int:
    """Physical cores this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, psutil.cpu_count(logical=False) or allowed)


def resolve_device(name: str) -> str:
    """ "auto" is the first CUDA device where there is one. torch is imported only where a driver hints at one.

    Raises:
        UserError: a device that is not there.
    """
    hinted = any(Path(p).exists() for p in ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg"))
    if name == "cpu" or (name == "auto" and not hinted):
        return "cpu"
    if name != "auto" and name.split(":")[0] != "cuda":
        raise UserError(f"device {name!r} is not one of auto, cpu, cuda, cuda:N")
    count = 0
    if hinted:
        import torch

        count = torch.cuda.device_count()
    index = int(name[5:]) if name[5:].isdigit() else 0
    if index < count:
        return name if name != "auto" else "cuda"
    if name == "auto":
        return "cpu"
    raise UserError(
        f"device {name!r} is not there ({count} CUDA devices found): take --device cpu, or see what bench doctor says"
    )


def fingerprint(device: str) -> str:
    """What a time holds for: the processor and how many of its cores, and of a CUDA device its name and libraries."""
    told = f"{provenance.processor()}, {cores()} cores"
    if not device.startswith("cuda"):
        return told
    import torch

    library = torch.backends.cusparselt.version() if torch.backends.cusparselt.is_available() else None
    parts = [torch.cuda.get_device_name(device), f"CUDA {torch.version.cuda}", f"cuSPARSELt {library}"]
    return ", ".join([*parts, f"torch {torch.__version__}", told])
