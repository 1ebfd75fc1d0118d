"""Environments for other libraries, built by pip in the cache: `bench env create`, `bench env ls`.

The manifest is written last, so an interrupted build has none and does not count as built.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bench.system import digests
from bench.system.cache import cache_dir, count_bytes, in_use
from bench.system.files import write_file
from bench.system.suggest import describe_unknown
from methods.contract.errors import Skipped, UserError

MANIFEST = "cast-bench.json"
PIP_OPTIONS = ("--no-input", "--retries=1", "--timeout=20", "--disable-pip-version-check")
"""Options without prompts. Without a network pip fails within a minute."""
VERSIONS = """
import json
from importlib.metadata import distributions
print(json.dumps({d.metadata["Name"]: d.version for d in distributions()}))
"""


@dataclass(frozen=True)
class EnvironmentSpec:
    """The packages that pip installs step by step. If two pins conflict, the later one wins."""

    steps: tuple[str, ...]
    constraints: tuple[str, ...]
    """Constraints of the first step. They keep pip from packages that a later step replaces, and
    from untested versions."""
    check: str
    """Python program that exits with 0 if the environment works."""
    packages: tuple[str, ...]
    """Packages whose versions `bench env ls` lists."""
    pythons: tuple[tuple[int, int], ...]
    """Supported versions of Python, the best first."""


ENVIRONMENTS = {
    "sparseml": EnvironmentSpec(
        steps=(
            "sparseml[transformers]==1.8.0",
            "sparsezoo==1.8.1",
            "pyarrow<18",
            "compressed-tensors==0.5.0",
            "accelerate<1",
            # For pkg_resources. Last, because each look at torch asks for a newer one.
            "setuptools<70",
        ),
        constraints=(
            "sparsezoo==1.8.1",
            "pyarrow<18",
            "compressed-tensors==0.5.0",
            "accelerate<1",
            "torch<2.14",
        ),
        check="import sparseml.core.session, sparseml.pytorch.optim, transformers",
        packages=("sparseml", "torch", "transformers"),
        pythons=((3, 11), (3, 10), (3, 9), (3, 8)),
    )
}


def lookup(name: str) -> EnvironmentSpec:
    """Return the packages of an environment. Raise UserError if its name is unknown."""
    if name not in ENVIRONMENTS:
        raise UserError(describe_unknown("environment", name, ENVIRONMENTS))
    return ENVIRONMENTS[name]


def folder(name: str) -> Path:
    return cache_dir() / "environments" / name


def pins(name: str) -> str:
    """Return the digest of an environment's specification."""
    return digests.of(asdict(lookup(name)))


def state(name: str) -> str:
    """ "built", "half built", "outdated" where it was built from other pins, or "absent"."""
    manifest = _manifest(name)
    if manifest is None:
        return "half built" if folder(name).exists() else "absent"
    return "built" if manifest["pins"] == pins(name) else "outdated"


def python(name: str) -> Path:
    """Return the interpreter of an environment. Raise Skipped if it is not built. The message says
    what to do."""
    if state(name) != "built":
        raise Skipped(f"run `bench env create {name}`")
    return _python(folder(name))


def rows() -> list[dict[str, Any]]:
    """Return a row for each environment."""
    out = []
    for name, spec in ENVIRONMENTS.items():
        path = folder(name)
        versions = (_manifest(name) or {}).get("versions", {})
        text = ", ".join(
            f"{package} {versions[package]}" for package in spec.packages if package in versions
        )
        out.append(
            {
                "name": name,
                "state": state(name),
                "versions": text,
                "bytes": count_bytes(path),
                "path": str(path),
            }
        )
    return out


def create(name: str, on_line: Callable[[str], None]) -> Path:
    """Build an environment unless it is built, and return its folder, or raise UserError.

    on_line: called with each step, and with each line of output, indented.
    """
    spec, path = lookup(name), folder(name)
    # Below, -I keeps Python from running modules of the current folder. Python before 3.11 has no
    # -P.
    with _build_lock(name):
        if state(name) == "built":
            return path
        log, constraints = path.with_suffix(".log"), path / "constraints.txt"
        log.unlink(missing_ok=True)
        if path.exists():
            shutil.rmtree(path)
        on_line(f"{name}: a venv in {path}")
        _run(name, [str(_interpreter(name, spec)), "-I", "-m", "venv", str(path)], log, on_line)
        constraints.write_text("\n".join(spec.constraints) + "\n")
        for i, step in enumerate(spec.steps):
            on_line(f"{name}: {i + 1} of {len(spec.steps)}: pip install {step}")
            pip = [str(_python(path)), "-I", "-m", "pip", *PIP_OPTIONS, "install"]
            if i == 0:
                pip += ["-c", str(constraints)]
            _run(name, [*pip, step], log, on_line)
        on_line(f"{name}: checking that it works")
        _run(name, [str(_python(path)), "-I", "-c", spec.check], log, on_line)
        versions = _run(name, [str(_python(path)), "-I", "-c", VERSIONS], log, on_line)
        write_file(
            path / MANIFEST,
            json.dumps({"pins": pins(name), "versions": json.loads(versions)}, indent=1),
        )
    return path


@contextmanager
def _build_lock(name: str) -> Iterator[None]:
    """Raise UserError if another process is building it."""
    try:
        folder(name).parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder(name).with_suffix(".lock"), timeout=0), in_use():
            yield
    except Timeout:
        raise UserError(
            f"environment {name} is being built by another process: wait until it ends"
        ) from None


def _interpreter(name: str, spec: EnvironmentSpec) -> Path:
    """Return a Python that the environment supports. Raise UserError if none is on the path."""
    if sys.version_info[:2] in spec.pythons:
        return Path(sys.executable)
    for major, minor in spec.pythons:
        found = shutil.which(f"python{major}.{minor}")
        if found:
            return Path(found)
    known = ", ".join(f"python{a}.{b}" for a, b in spec.pythons)
    raise UserError(f"environment {name} needs one of {known} on $PATH: install one")


def _run(name: str, command: list[str], log: Path, on_line: Callable[[str], None]) -> str:
    """Run a command, write its output to the log, and return the last line. UserError: its last
    error line, and the log."""
    last: deque[str] = deque(maxlen=50)  # pip may print advice after its error
    with (
        log.open("a") as file,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
    ):
        assert process.stdout
        for line in process.stdout:
            file.write(line)
            last.append(line.strip())
            on_line("  " + line.strip())
    if process.returncode:
        said = [" ".join(command[:4]), *filter(None, last)]
        errors = [line for line in said if line.startswith("ERROR")] or said
        raise UserError(
            f"environment {name} could not be built: {errors[-1]}. Its log is {log}. Check that "
            "pip reaches a package index, then run the same command again"
        )
    return last[-1] if last else ""


def _python(path: Path) -> Path:
    return path / "bin" / "python"


def _manifest(name: str) -> dict[str, Any] | None:
    try:
        manifest: dict[str, Any] = json.loads((folder(name) / MANIFEST).read_text())
    except (OSError, ValueError):
        return None
    return manifest if {"pins", "versions"} <= manifest.keys() else None
