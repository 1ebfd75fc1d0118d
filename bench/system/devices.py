"""Devices: names, numbers of cores, memory, and the hardware that a timing is valid for."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from pathlib import Path

import psutil

from bench.system import nvidia_smi, provenance
from bench.system.suggest import shorten
from methods.contract.errors import UserError

DECIDES_NO_NUMBER = True

KERNEL_PATH = "BENCH_KERNEL_PATH"
"""Environment variable that chooses one of the native kernel's PATHS instead of the best."""
EAGER = "BENCH_EAGER"
"""Environment variable that, if set, times decoding on a CPU without compiling it."""

CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Files with the memory limit of a container in bytes, in cgroups version 2 and 1."""
EXPANDABLE_SEGMENTS = {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
"""Setting with which torch returns no error for memory that is free, but in pieces. Shards are
gathered into tensors of many sizes. A CPU ignores it."""
CARD = r"cuda(:[0-9]{1,4})?"

MIN_DRIVERS = {"13": 580, "12": 525}
"""Oldest branch of the driver that runs programs of each major version of CUDA.
https://docs.nvidia.com/cuda/cuda-toolkit-release-notes/index.html"""
WHEELS = "https://download.pytorch.org/whl"
WHEEL_INDEXES = ((580, "cu130"), (570, "cu128"), (525, "cu126"))
"""Oldest branch of the driver for each index of torch's wheels, the newest first. Cards that need
cu128 (Blackwell) have no older driver than 570."""


def cores() -> int:
    """Return the number of physical cores that this process may use."""
    allowed = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    return min(allowed, psutil.cpu_count(logical=False) or allowed)


def has_instructions_for(dtype: str) -> bool:
    """Return whether the CPU multiplies numbers of a format faster than float32, or as fast.

    Without these instructions torch's products of bfloat16 take several times as long as float32's
    (see bench.system.products), and torch has float16 products on few CPUs.
    """
    level = provenance.instruction_set()
    return dtype == "float32" or (dtype == "bfloat16" and level in ("amx", "avx512_bf16"))


def matching_onednn_limit() -> dict[str, str]:
    """Return the environment variable that limits oneDNN to the instruction set of
    $ATEN_CPU_CAPABILITY, if that is set.

    With torch alone limited, oneDNN packs bfloat16 for instructions that torch refuses ("pack_vnni2
    is only supported…").
    """
    limits = {"avx2": "AVX2", "default": "SSE41"}
    level = limits.get(os.environ.get("ATEN_CPU_CAPABILITY", ""))
    return {"ONEDNN_MAX_CPU_ISA": level} if level else {}


def resolve_device(name: str) -> str:
    """Return "cpu", "cuda" or "cuda:N", or raise UserError. "auto" is "cuda" if the machine has a
    CUDA device.

    torch is imported only if the machine has a driver.
    """
    hinted = any(Path(p).exists() for p in ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg"))
    if name == "cpu" or (name == "auto" and not hinted):
        return "cpu"
    if name != "auto" and not re.fullmatch(CARD, name):
        raise UserError(
            f"device {name!r} is unknown: give auto, cpu, cuda or cuda:N (bench plan also takes "
            "the name of a card)"
        )
    count = 0
    if hinted:
        import torch

        count = torch.cuda.device_count()
        fault = driver_fault()
        if fault and name == "auto":
            return "cpu"
        if fault:
            raise UserError(f"device {name!r} cannot be used: {fault}")
    index = int(name[5:] or 0)
    if index < count:
        return name if name != "auto" else "cuda"
    if name == "auto":
        return "cpu"
    raise UserError(
        f"device {name!r} does not exist ({count} CUDA devices found): use --device cpu, or run "
        "bench doctor"
    )


def driver_fault() -> str:
    """Return why torch cannot use the cards that the driver counts, and what to do; "" if it can.

    torch is not imported: `resolve_device` did so if the machine has a driver.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.device_count() or torch.cuda.is_available():
        return ""
    version, cuda = nvidia_smi.driver_version(), str(torch.version.cuda)
    branch = int(version.split(".")[0]) if version else 0
    if branch and branch >= MIN_DRIVERS.get(cuda.split(".")[0], 0):
        return (
            f"the NVIDIA driver {version} is new enough for CUDA {cuda}, but torch cannot start "
            'it: python -c "import torch; torch.cuda.init()" prints why'
        )
    fault = f"the NVIDIA driver {version}".rstrip() + (
        f" is too old for this torch, which is built for CUDA {cuda}: update the driver"
    )
    indexes = [name for least, name in WHEEL_INDEXES if not branch or least <= branch]
    if not indexes:
        return f"{fault} to {WHEEL_INDEXES[-1][0]} or newer"
    own = indexes[0] if branch else WHEEL_INDEXES[-1][1]
    return f"{fault}, or pip install torch --index-url {WHEELS}/{own}"


def exists(device: str) -> bool:
    """Return whether this machine has a device."""
    try:
        return bool(resolve_device(device))
    except UserError:
        return False


def resolve_devices(names: str, *, elsewhere: bool = False) -> tuple[str, ...]:
    """Resolve a device, or several numbered cards by commas. Each makes one artifact at a time.

    elsewhere: whether the devices belong to another machine, so that they need not exist on this
    one. "auto" is that of this one.
    """

    def resolve(name: str) -> str:
        return name if elsewhere and re.fullmatch(CARD, name) else resolve_device(name)

    if "," not in names:
        return (resolve(names),)
    listed = tuple(name.strip() for name in names.split(","))
    if len(set(listed)) < len(listed) or not all(
        re.fullmatch(r"cuda:(0|[1-9][0-9]{0,3})", name) for name in listed
    ):
        raise UserError(
            f"device {shorten(names)!r} is not a list of cards: give each once, for example "
            "cuda:0,cuda:1; use --jobs for several artifacts on the CPU"
        )
    return tuple(resolve(name) for name in listed)


def cluster_device(name: str) -> str:
    """Return the type of device of other machines, or raise UserError for a GPU's number: they may
    have other GPUs."""
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(
            f"device {shorten(name)!r} names GPUs, but the executor assigns them: use --device "
            "cuda or cpu"
        )
    return name if name != "auto" else resolve_device("auto")


def memory_bytes() -> int:
    """Return the memory that this process may use in bytes: that of the machine, or the limit of
    its container."""
    limits = [psutil.virtual_memory().total]
    for file in CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # the file says "max" if there is no limit
            limits.append(int(file.read_text()))
    return min(limits)


def select_card(device: str) -> None:
    """Make a card the default of torch, so that timings, memory peaks and names without a device
    refer to it."""
    if device.startswith("cuda"):
        import torch

        # torch refuses "cuda" without a number here.
        torch.cuda.set_device(torch.device(device).index or 0)


def fingerprint(device: str) -> str:
    """Return the hardware and libraries that a timing is valid for. The text is part of the key of
    the timing. A plan may name a card that this machine lacks."""
    cpu = f"{provenance.processor()}, {cores()} cores"
    path = os.environ.get(KERNEL_PATH)
    if path:
        cpu += f", kernel path {path}"
    if os.environ.get(EAGER):
        cpu += ", eager"
    if not device.startswith("cuda"):
        return cpu
    if not exists(device):
        return f"{device} of another machine"
    import torch

    library = (
        torch.backends.cusparselt.version() if torch.backends.cusparselt.is_available() else None
    )
    parts = [
        torch.cuda.get_device_name(device),
        f"CUDA {torch.version.cuda}",
        f"cuSPARSELt {library}",
    ]
    return ", ".join([*parts, f"torch {torch.__version__}", cpu])
