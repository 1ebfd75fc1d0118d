"""Environments of other libraries, built by pip in the cache: `bench env create`, `bench env ls`.

An environment counts once its manifest is there, which is written last: one that was interrupted or failed does not.
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

from bench.system import digests
from bench.system.cache import CACHE_ENV, cache_dir, in_use
from bench.system.files import atomic_write
from bench.system.suggest import unknown
from methods.errors import Skipped, UserError

MANIFEST = "cast-bench.json"
VERSIONS = """
import json
from importlib.metadata import distributions
print(json.dumps({d.metadata["Name"]: d.version for d in distributions()}))
"""


@dataclass(frozen=True)
class Recipe:
    """What pip installs, one step after the other, so that a later step's pin wins where two cannot agree."""

    steps: tuple[str, ...]
    constraints: tuple[str, ...]
    """Of the first step: what it would otherwise fetch only to be replaced, or in a version not seen to work."""
    check: str
    """A program that ends well where the environment works."""
    shown: tuple[str, ...]
    """Packages whose versions `bench env ls` shows."""
    pythons: tuple[tuple[int, int], ...]
    """Versions of Python it runs on, the best first."""


ENVIRONMENTS = {
    "sparseml": Recipe(
        steps=(
            "sparseml[transformers]==1.8.0",
            "sparsezoo==1.8.1",
            "pyarrow<18",
            "compressed-tensors==0.5.0",
            "accelerate<1",
            "setuptools<70",  # pkg_resources; last, since torch asks for a newer one whenever it is looked at
        ),
        constraints=("sparsezoo==1.8.1", "pyarrow<18", "compressed-tensors==0.5.0", "accelerate<1", "torch<2.14"),
        check="import sparseml.core.session, sparseml.pytorch.optim, transformers",
        shown=("sparseml", "torch", "transformers"),
        pythons=((3, 11), (3, 10), (3, 9), (3, 8)),
    )
}


def lookup(name: str) -> Recipe:
    """
    Raises:
        UserError: there is none of that name.
    """
    if name not in ENVIRONMENTS:
        raise UserError(unknown("environment", name, ENVIRONMENTS))
    return ENVIRONMENTS[name]


def folder(name: str) -> Path:
    return cache_dir() / "environments" / name


def pins(name: str) -> str:
    """Digest of what an environment is made from."""
    return digests.of(asdict(lookup(name)))


def state(name: str) -> str:
    """ "built", "half built", "outdated" where it was built from other pins, or "absent"."""
    manifest = _manifest(name)
    if manifest is None:
        return "half built" if folder(name).exists() else "absent"
    return "built" if manifest["pins"] == pins(name) else "outdated"


def python(name: str) -> Path:
    """The interpreter of an environment that is ready.

    Raises:
        Skipped: it is not, and what to do.
    """
    if state(name) != "built":
        raise Skipped(f"run `bench env create {name}`")
    return _python(folder(name))


def rows() -> list[dict[str, Any]]:
    """One row an environment."""
    out = []
    for name, recipe in ENVIRONMENTS.items():
        path = folder(name)
        versions = (_manifest(name) or {}).get("versions", {})
        size = sum(p.stat().st_size for p in path.rglob("*") if p.is_file() and not p.is_symlink())
        told = ", ".join(f"{package} {versions[package]}" for package in recipe.shown if package in versions)
        out.append({"name": name, "state": state(name), "versions": told, "bytes": size, "path": str(path)})
    return out


def create(name: str, say: Callable[[str], None]) -> Path:
    """Build an environment unless it is there. say: told each step, and each line of pip's within one.

    Raises:
        UserError: unknown name, no Python it runs on, the folder cannot be written, or pip failed.
    """
    recipe, path = lookup(name), folder(name)
    with _alone(name):
        if state(name) == "built":
            return path
        log, constraints = path.with_suffix(".log"), path / "constraints.txt"
        log.unlink(missing_ok=True)
        if path.exists():
            shutil.rmtree(path)
        say(f"{name}: a venv in {path}")
        _run(name, [str(_interpreter(name, recipe)), "-m", "venv", str(path)], log, say)
        constraints.write_text("\n".join(recipe.constraints) + "\n")
        for i, step in enumerate(recipe.steps):
            say(f"{name}: {i + 1} of {len(recipe.steps)}: pip install {step}")
            _run(name, [*_pip(path), "install", *(() if i else ("-c", str(constraints))), step], log, say)
        say(f"{name}: is it well?")
        _run(name, [str(_python(path)), "-I", "-c", recipe.check], log, say)
        versions = _run(name, [str(_python(path)), "-I", "-c", VERSIONS], log, say)
        with atomic_write(path / MANIFEST) as temporary:
            temporary.write_text(json.dumps({"pins": pins(name), "versions": json.loads(versions)}, indent=1))
    return path


@contextmanager
def _alone(name: str) -> Iterator[None]:
    """
    Raises:
        UserError: another process is building it, or the cache cannot be written.
    """
    from filelock import FileLock, Timeout

    try:
        folder(name).parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder(name).with_suffix(".lock"), timeout=0), in_use():
            yield
    except Timeout:
        raise UserError(f"environment {name} is being built by another process: wait until it ends") from None
    except OSError as fault:
        raise UserError(
            f"{fault.filename or cache_dir()} cannot be written ({fault.strerror}): name another cache by ${CACHE_ENV}"
        ) from None


def _interpreter(name: str, recipe: Recipe) -> Path:
    """
    Raises:
        UserError: this Python is none the environment runs on, nor is another on the path.
    """
    if sys.version_info[:2] in recipe.pythons:
        return Path(sys.executable)
    for major, minor in recipe.pythons:
        if found := shutil.which(f"python{major}.{minor}"):
            return Path(found)
    known = ", ".join(f"python{a}.{b}" for a, b in recipe.pythons)
    raise UserError(f"environment {name} needs one of {known} on the path, and none is: install one")


def _run(name: str, command: list[str], log: Path, say: Callable[[str], None]) -> str:
    """The last line the command printed; all of it goes into the log.

    Raises:
        UserError: it failed, with its last word and where the log is.
    """
    last: deque[str] = deque(maxlen=50)  # pip may have more to say after its error
    with (
        log.open("a") as file,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process,
    ):
        assert process.stdout
        for line in process.stdout:
            file.write(line)
            last.append(line.strip())
            say("  " + line.strip())
    if process.returncode:
        said = [line for line in last if line.startswith("ERROR")] or [line for line in last if line]
        raise UserError(
            f"environment {name} could not be built: {said[-1] if said else ' '.join(command[:4])}; its log is {log}: "
            "see that pip reaches a package index, then run the same command again"
        )
    return last[-1] if last else ""


def _python(path: Path) -> Path:
    return path / "bin" / "python"


def _pip(path: Path) -> list[str]:
    """A pip that asks nothing, draws nothing, and gives up on a network that is not there within a minute."""
    return [str(_python(path)), "-m", "pip", "--no-input", "--retries=1", "--timeout=20", "--disable-pip-version-check"]


def _manifest(name: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads((folder(name) / MANIFEST).read_text())
    except (OSError, ValueError):
        return None
    return found if {"pins", "versions"} <= found.keys() else None
