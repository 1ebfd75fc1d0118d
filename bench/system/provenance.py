"""Provenance of a number: commit, versions and machine. It is in the record, but not in the key."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import time
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import Distribution, distributions, version
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from bench.system.interpreter import OWN_PACKAGES, ROOT

DECIDES_NO_NUMBER = True

PACKAGES = (
    "cast-bench",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "datasets",
    "lm_eval",
    "numpy",
)
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
"""Processor flags that each level needs, as Linux spells them. The highest level is first."""

ISA_VARIABLES = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR")
"""Environment variables that make torch and its libraries use a lower level."""


def gather() -> dict[str, Any]:
    """Return commit, versions, machine, and the time."""
    return {
        "commit": commit(),
        "versions": versions(),
        "machine": machine(),
        "recorded": format_time(time.time()),
    }


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python and PACKAGES, "absent" for a package that is not installed."""
    found = {
        name: next((d.version for d in distributions(name=name)), "absent") for name in PACKAGES
    }
    return {"python": platform.python_version()} | found


@cache
def commit(root: Path = ROOT) -> dict[str, Any]:
    """Return id and time of the commit of a checkout, and whether it has changes. root: of this
    package, if not given."""
    absent = {"id": None, "dirty": None}
    if not (root / ".git").exists():
        return absent
    try:
        head, seconds = _output("git", "-C", str(root), "log", "-1", "--format=%H %ct").split()
        changed = _output("git", "-C", str(root), "status", "--porcelain", "--untracked-files=no")
    except (OSError, ValueError, subprocess.SubprocessError):
        return absent
    return {"id": head, "dirty": bool(changed.strip()), "time": format_time(int(seconds))}


def describe_plugin(name: str, installed: Distribution) -> dict[str, Any]:
    """Return the distribution and version of a plug-in, and its repository and commit as far as its
    installation says them.

    A checkout has a commit if it is installed with `pip install -e`. A package from git has that of
    its download.
    """
    about: dict[str, Any] = {
        "name": name,
        "distribution": installed.metadata["Name"],
        "version": installed.version,
    }
    try:
        source = json.loads(installed.read_text("direct_url.json") or "{}")
        url = urlsplit(source.get("url", ""))
        downloaded = source.get("vcs_info", {}).get("commit_id")
    except (OSError, ValueError, AttributeError):
        return about
    if url.scheme == "file" and source.get("dir_info", {}).get("editable"):
        here = Path(unquote(url.path))
        checkouts = [each for each in (here, *here.parents) if (each / ".git").exists()]
        found = commit(checkouts[0] if checkouts else here)
        if found["id"]:
            about["commit"] = found
        return about
    if url.scheme in ("http", "https") and url.hostname:
        # Not the name and password of a user.
        about["repository"] = f"{url.scheme}://{url.hostname}{url.path}"
    if isinstance(downloaded, str):
        about["commit"] = {"id": downloaded, "dirty": False}
    return about


def describe_file(name: str, target: str) -> dict[str, Any]:
    """Return the file of a class that the user named, as typed in the working directory, and the
    digest of its source.

    target: FILE:CLASS with an absolute path.
    """
    path, _, kind = target.partition(":")
    source = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    inside = Path(path).is_relative_to(Path.cwd())
    file = Path(path).relative_to(Path.cwd()) if inside else Path(path)
    return {
        "name": name,
        "distribution": file.name,
        "version": source[:12],
        "file": f"{file}:{kind}",
    }


def describe_version() -> str:
    """Return the version of this package, and its commit if it runs from a checkout."""
    here = commit()
    changed = ", changed since" if here["dirty"] else ""
    return f"{VERSION} (commit {here['id'][:12]}{changed})" if here["id"] else VERSION


@cache
def describe_code() -> str:
    """Return the version of this package and eight digits of a digest of its source files, read at
    the first call.

    Two installations with the same text run the same code.
    """
    digest = hashlib.sha256()
    for package in OWN_PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py"), key=lambda f: f.relative_to(ROOT).parts):
            name = file.relative_to(ROOT).as_posix()
            digest.update(f"{name}\n".encode() + hashlib.sha256(file.read_bytes()).digest())
    return f"{VERSION} (code {digest.hexdigest()[:8]})"


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout


def format_time(seconds: float, timespec: str = "seconds") -> str:
    """Format a time since the epoch as 2026-01-31T23:59:59Z. timespec: as in datetime.isoformat."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


def machine() -> dict[str, Any]:
    """Return the platform, the processor and the CUDA device.

    Processors with one name, such as "AMD EPYC", can run different kernels, which changes the last
    digits of a sum. These fields distinguish them:

        cpu_model        family/model/stepping; on ARM implementer/part/revision
        instruction_set  highest level of INSTRUCTION_SETS that the processor has
        isa              level that torch uses; absent if torch is not imported
        isa_limits       environment variables that lower the level; absent if none is set
    """
    about: dict[str, Any] = {"platform": platform.platform(), **cpu(), "device": None}
    limits = _isa_limits()
    if limits:
        about["isa_limits"] = limits
    torch = sys.modules.get("torch")
    if torch is not None:
        about["isa"] = torch.backends.cpu.get_cpu_capability()
    if torch is not None and torch.cuda.is_available():
        about["device"] = torch.cuda.get_device_name()
        about["cuda"] = torch.version.cuda
    return about


def instruction_set() -> str:
    """Return the CPU's level of INSTRUCTION_SETS, or "" if it is unknown or a variable of
    ISA_VARIABLES limits it."""
    return "" if _isa_limits() else cpu().get("instruction_set", "")


def processor() -> str:
    """Return name, model and instruction set of the CPU, and limits. CPUs with the same text run
    the same kernels."""
    about = cpu()
    parts = [about["cpu"], about.get("cpu_model", ""), about.get("instruction_set", "")]
    parts += [f"{name}={value}" for name, value in _isa_limits().items()]
    return " ".join(filter(None, parts))


@cache
def cpu_flags() -> frozenset[str]:
    """Return the flags of the first processor, as Linux spells them. Empty if the system does not
    give them."""
    return frozenset(_flags(_fields(_cpuinfo())).split())


@cache
def cpu() -> dict[str, str]:
    """Return the fields cpu, cpu_model and instruction_set of `machine`, as far as the system gives
    them."""
    if sys.platform == "darwin":
        # macOS names features as Linux does, in capitals and with dots.
        flags = _sysctl("machdep.cpu").lower().replace(".", "_")
        kind = platform.machine()
        if kind == "arm64":
            flags = "asimd"
        return _cpu(_sysctl("machdep.cpu.brand_string") or kind, [], flags)
    return {"cpu": platform.processor() or platform.machine()} | cpu_of_cpuinfo(_cpuinfo())


def _cpuinfo() -> str:
    file = Path("/proc/cpuinfo")
    return file.read_text() if file.exists() else ""


def cpu_of_cpuinfo(text: str) -> dict[str, str]:
    """Read these fields from the first processor in the text of /proc/cpuinfo."""
    fields = _fields(text)
    numbers = [fields[key] for key in ("cpu family", "model", "stepping") if key in fields]
    numbers = numbers or [
        fields[key] for key in ("CPU implementer", "CPU part", "CPU revision") if key in fields
    ]
    return _cpu(fields.get("model name", ""), numbers, _flags(fields))


def _fields(text: str) -> dict[str, str]:
    """Return the fields of the first processor. text: that of /proc/cpuinfo."""
    rows = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in rows}


def _flags(fields: dict[str, str]) -> str:
    return fields.get("flags") or fields.get("Features") or ""


def _cpu(name: str, numbers: list[str], flags: str) -> dict[str, str]:
    known = set(flags.split())
    level = next(
        (level for level, needed in INSTRUCTION_SETS.items() if known.issuperset(needed)), ""
    )
    fields = {"cpu": name, "cpu_model": "/".join(numbers), "instruction_set": level}
    return {key: value for key, value in fields.items() if value}


def _sysctl(name: str) -> str:
    try:
        return _output("sysctl", "-n", name).strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _isa_limits() -> dict[str, str]:
    return {name: os.environ[name] for name in ISA_VARIABLES if os.environ.get(name)}


def peak_bytes(device: str) -> int:
    """Return the peak memory so far in bytes: of the CUDA device, else of this process or its
    largest child."""
    torch = sys.modules.get("torch")
    if device.startswith("cuda") and torch is not None:
        return int(torch.cuda.max_memory_allocated())
    scale = 1 if sys.platform == "darwin" else 1024
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return scale * max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
