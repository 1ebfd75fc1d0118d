"""Zip files: the same content gives the same bytes, and a file from outside is read within
limits."""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Collection, Iterable
from pathlib import Path

from bench.system.files import atomic_write

MAX_RATIO = 64
"""Largest ratio of the unpacked files to the zip file. Records are packed to a tenth."""
MAX_FILES = 100_000
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Methods of compression. The others unpack without a limit."""
FAULTS = (
    zipfile.BadZipFile, zlib.error, OverflowError, KeyError, ValueError, TypeError, OSError,
    EOFError, RuntimeError,
)  # fmt: skip
"""Errors of a damaged zip file."""


class TooLarge(ValueError):
    """A zip file unpacks to more than its limit."""


def write(path: Path, files: Iterable[tuple[str, bytes]], stored: Collection[str] = ()) -> None:
    """Write files with one date. stored: names of those that are compressed already."""
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w") as out:
        for name, content in files:
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_STORED if name in stored else zipfile.ZIP_DEFLATED
            out.writestr(info, content)


def read(path: Path, max_bytes: int, wanted: Collection[str] | None = None) -> dict[str, bytes]:
    """Return the files by name. wanted: names that are read, by default all. They must be there.

    Raises:
        TooLarge: they unpack to more than max_bytes, or to MAX_RATIO times the size of the zip
        file. Exception: it is damaged, see FAULTS; or it has two files of one name, a link, or data
            that belong to no file.
    """
    max_bytes = min(max_bytes, MAX_RATIO * path.stat().st_size)
    with zipfile.ZipFile(path) as packed:
        listed = packed.infolist()
        infos = {info.filename: info for info in listed}
        if len(infos) < len(listed):
            raise ValueError("two files of one name")
        if len(infos) > MAX_FILES:
            raise TooLarge(f"more than {MAX_FILES:,} files")
        # Readers differ in what they take for the start of such a file.
        if packed.comment or min((info.header_offset for info in listed), default=0):
            raise ValueError("data before its first file or after its last")
        chosen = listed if wanted is None else [infos[name] for name in wanted]
        if sum(info.file_size for info in chosen) > max_bytes:
            raise TooLarge(f"it unpacks to more than {max_bytes:,} bytes")
        for info in chosen:
            if info.compress_type not in METHODS:
                raise ValueError("another method of compression than deflate")
            if info.flag_bits & 1:
                raise ValueError(f"{info.filename} is encrypted")
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise ValueError(f"{info.filename} is a link or a device")
        return {info.filename: packed.read(info) for info in chosen if not info.is_dir()}
