"""Devices: which one a run uses, how many cores it has, and how to name it."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

import psutil

from bench.system import provenance
from bench.system.suggest import shorten
from methods.errors import UserError

KERNEL_PATH = "BENCH_KERNEL_PATH"
"""Environment variable that chooses one of the native kernel's PATHS instead of the best."""

CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Of a container's memory, in bytes: version 2 and version 1."""
CARD = r"cuda(:[0-9]{1,4})?"


def cores() -> int:
    """Physical cores this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, psutil.cpu_count(logical=False) or allowed)


def matching_onednn_limit() -> dict[str, str]:
    """The variable that holds oneDNN to the instruction set that $ATEN_CPU_CAPABILITY holds torch to; else nothing.

    Lowered alone, torch packs bfloat16 for an instruction set that it then refuses ("pack_vnni2 is only supported…").
    """
    limits = {"avx2": "AVX2", "default": "SSE41"}
    level = limits.get(os.environ.get("ATEN_CPU_CAPABILITY", ""))
    return {"ONEDNN_MAX_CPU_ISA": level} if level else {}


def resolve_device(name: str) -> str:
    """ "cpu", "cuda" or "cuda:N". "auto" is "cuda" where there is a CUDA device. Imports torch only where there is a driver.

    Raises:
        UserError: unknown name, or no such device.
    """
    hinted = any(Path(p).exists() for p in ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg"))
    if name == "cpu" or (name == "auto" and not hinted):
        return "cpu"
    if name != "auto" and not re.fullmatch(CARD, name):
        raise UserError(f"device {name!r} is not one of auto, cpu, cuda, cuda:N")
    count = 0
    if hinted:
        import torch

        count = torch.cuda.device_count()
    index = int(name[5:] or 0) if name != "auto" else 0
    if index < count:
        return name if name != "auto" else "cuda"
    if name == "auto":
        return "cpu"
    raise UserError(
        f"device {name!r} does not exist ({count} CUDA devices found): use --device cpu, or run bench doctor"
    )


def exists(device: str) -> bool:
    """Whether this machine has a device."""
    try:
        return bool(resolve_device(device))
    except UserError:
        return False


def resolve_devices(names: str, *, elsewhere: bool = False) -> tuple[str, ...]:
    """The same for several by commas, of which each makes an artifact at a time.

    elsewhere: they are another machine's, so that those need not exist which are named.

    Raises:
        UserError: as `resolve_device`; one twice, or several that are no cards with their numbers.
    """
    resolve = _check_name if elsewhere else resolve_device
    if "," not in names:
        return (resolve(names),)
    listed = tuple(name.strip() for name in names.split(","))
    if len(set(listed)) < len(listed) or not all(re.fullmatch(r"cuda:[0-9]{1,4}", name) for name in listed):
        raise UserError(
            f"device {shorten(names)!r} is no list of cards: name each once, for example cuda:0,cuda:1; "
            "for several artifacts on the CPU, use --jobs"
        )
    return tuple(resolve(name) for name in listed)


def _check_name(name: str) -> str:
    """A device by its name; "auto" is this machine's.

    Raises:
        UserError: unknown name.
    """
    return name if re.fullmatch(CARD, name) else resolve_device(name)


def memory_bytes() -> int:
    """Main memory that this process may use: the machine's, or less where a container has a limit."""
    limits = [psutil.virtual_memory().total]
    for file in CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # "max" where there is none
            limits.append(int(file.read_text()))
    return min(limits)


def select_card(device: str) -> None:
    """Make a card the one that is meant where none is named: timings, peaks of memory and its name are then its own."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.set_device(device)


def fingerprint(device: str) -> str:
    """The hardware and libraries for which a time is valid, as text. It is part of the key of a speed."""
    cpu = f"{provenance.processor()}, {cores()} cores"
    if path := os.environ.get(KERNEL_PATH):
        cpu += f", kernel path {path}"
    if not device.startswith("cuda"):
        return cpu
    import torch

    library = torch.backends.cusparselt.version() if torch.backends.cusparselt.is_available() else None
    parts = [torch.cuda.get_device_name(device), f"CUDA {torch.version.cuda}", f"cuSPARSELt {library}"]
    return ", ".join([*parts, f"torch {torch.__version__}", cpu])
