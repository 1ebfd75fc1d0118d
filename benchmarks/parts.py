"""Pack packages, a model and texts into parts small enough to be carried to a machine without a
network, and unpack them.

A part is a tar of files and slices of files. index.json, in the first, has the sha256 of every
file. The standard library is enough to unpack.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parent.parent
PART_BYTES = 45_000_000
OVERHEAD = 4096
"""Bytes that tar adds to a member."""
THERE = re.compile(r"(torch|triton|nvidia|cuda)([-_.].*)?$")
"""Packages that a machine with a card has: they are large, and belong to its driver."""
PLATFORMS = (
    "manylinux_2_28_x86_64",
    "manylinux_2_27_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
    "linux_x86_64",
)
INDEX = "index.json"
SLICE = re.compile(r"(.+)\.slice-([0-9]{3})$")


class Damaged(Exception):
    """Parts that are missing, or are not what was packed."""


def pack(folder: Path, model: str, requirements: Iterable[str], python: str) -> None:
    """Write what a card's machine may lack into parts: wheels for its Python, the model and texts
    of this machine's cache."""
    from bench.inputs import download
    from bench.system.cache import cache_dir

    download.pull(model, None)
    with tempfile.TemporaryDirectory() as temporary:
        wheels = Path(temporary) / "wheels"
        _download(wheels, requirements, python)
        own = [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "-q",
            "--no-deps",
            "-w",
            str(wheels),
            str(ROOT),
        ]
        subprocess.run(own, check=True)  # for its version; the checkout's code comes first there
        files = {f"wheels/{p.name}": p for p in sorted(wheels.iterdir())}
        for path in sorted((cache_dir() / "models" / model).rglob("*")):
            if path.is_file():
                files[f"cache/{path.relative_to(cache_dir())}"] = path
        count = write_parts(folder, files)
    print(
        f"{count} parts in {folder}: carry them to the machine, then python benchmarks/cuda.py "
        "--from DIR"
    )


def _download(wheels: Path, requirements: Iterable[str], python: str) -> None:
    """Wheels for that machine's Python. What the index has as source alone is built here, if it is
    Python alone."""
    wanted = {f"{name}=={metadata.version(name)}" for name in _closure(requirements)}
    pip = [sys.executable, "-m", "pip"]
    there = [
        "--only-binary=:all:",
        "--python-version",
        python,
        *(f"--platform={p}" for p in PLATFORMS),
    ]
    while True:
        command = [*pip, "download", "-q", "--no-deps", *there, "-d", str(wheels), *sorted(wanted)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode == 0:
            return
        missing = re.search(r"No matching distribution found for (\S+)", done.stderr)
        if not missing or missing[1] not in wanted:
            sys.exit(done.stderr)
        wanted.remove(missing[1])
        subprocess.run(
            [*pip, "wheel", "-q", "--no-deps", "-w", str(wheels), missing[1]], check=True
        )
        name = missing[1].partition("==")[0].replace("-", "_")
        if not list(wheels.glob(f"{name}*-none-any.whl")):
            sys.exit(
                f"{missing[1]} has no wheel for Python {python} on the index, and one built here "
                "is for this machine only"
            )


def _closure(requirements: Iterable[str]) -> set[str]:
    """Return all packages that these need, as installed here, without those of the other
    machine."""
    from packaging.requirements import Requirement

    waiting, found = [(text, "") for text in requirements], set[tuple[str, str]]()
    while waiting:
        text, wanted = waiting.pop()
        requirement = Requirement(text)
        name = requirement.name.lower().replace("_", "-")
        if THERE.match(name) or (
            requirement.marker and not requirement.marker.evaluate({"extra": wanted})
        ):
            continue
        for extra in ("", *requirement.extras):
            if (name, extra) not in found:
                found.add((name, extra))
                waiting += [(inner, extra) for inner in metadata.requires(name) or []]
    return {name for name, _ in found}


def write_parts(folder: Path, files: dict[str, Path], part_bytes: int = PART_BYTES) -> int:
    """Write files, by their name there, into parts of at most `part_bytes`. Returns how many. The
    folder must be new or empty."""
    if folder.exists() and any(folder.iterdir()):
        sys.exit(f"{folder} is not empty: name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    index = json.dumps({name: _digest(path) for name, path in files.items()}, indent=1).encode()
    room, number, tar = 0, 0, None
    for name, content in _pieces(files, index, part_bytes - 4 * OVERHEAD):
        if tar is None or len(content) + OVERHEAD > room:
            if tar:
                tar.close()
            number += 1
            tar = tarfile.open(folder / f"part-{number:02}.tar", "w")  # noqa: SIM115  closed before the next
            room = part_bytes - 3 * OVERHEAD
        member = tarfile.TarInfo(name)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
        room -= len(content) + OVERHEAD
    if tar:
        tar.close()
    return number


def _pieces(files: dict[str, Path], index: bytes, size: int) -> Iterator[tuple[str, bytes]]:
    yield INDEX, index
    for name, path in files.items():
        with path.open("rb") as stream:
            for number in range(max(1, -(-path.stat().st_size // size))):
                suffix = f".slice-{number:03}" if path.stat().st_size > size else ""
                yield name + suffix, stream.read(size)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def unpack(folder: Path, place: Path) -> None:
    """Put the files of all parts into `place`, whole or not at all.

    Raises:
        Damaged: a part is missing or damaged.
    """
    started = place.with_name(place.name + ".partial")
    shutil.rmtree(started, ignore_errors=True)
    started.mkdir(parents=True)
    found = sorted(folder.glob("part-*.tar"))
    if not found:
        raise Damaged(f"no part-*.tar in {folder}")
    for part in found:
        with tarfile.open(part) as tar:
            tar.extractall(started, filter="data")  # no link, no path out of the folder
    for first in sorted(started.rglob("*.slice-000")):
        whole = first.with_name(SLICE.match(first.name)[1])  # type: ignore[index]
        with whole.open("wb") as out:
            for piece in sorted(first.parent.glob(f"{whole.name}.slice-[0-9][0-9][0-9]")):
                with piece.open("rb") as stream:
                    shutil.copyfileobj(stream, out)
                piece.unlink()
    if not (started / INDEX).is_file():
        raise Damaged(f"part-01.tar is missing in {folder}")
    for name, digest in json.loads((started / INDEX).read_text()).items():
        if not (started / name).is_file() or _digest(started / name) != digest:
            raise Damaged(f"{name} is missing or damaged: copy all parts into {folder} again")
    shutil.rmtree(place, ignore_errors=True)
    started.rename(place)
