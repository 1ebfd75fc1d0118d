"""Zip files: the same content gives the same bytes, and a file from outside is read within
limits."""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import BinaryIO

from bench.system.files import atomic_write

MAX_RATIO = 64
"""Largest ratio of the unpacked files to the zip file. Records are packed to a tenth."""
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Methods of compression. The others unpack without a limit."""
HEADER = struct.Struct("<4s3HI3I2H")
"""Header before each file: signature, version, flags, method, time, checksum, packed and unpacked
size, lengths of the name and of the extra fields."""
END = struct.Struct("<4s4H2IH")
"""End of a zip file: signature, two disks, number of files on this disk and in all, size and offset
of the directory, length of the comment."""
FAULTS = (
    zipfile.BadZipFile, zlib.error, struct.error, OverflowError, KeyError, ValueError, TypeError,
    OSError, EOFError, RuntimeError,
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
        file. Exception: it is damaged, see FAULTS; or two readers could find different files in it.
    """
    size = path.stat().st_size
    max_bytes = min(max_bytes, MAX_RATIO * size)
    with zipfile.ZipFile(path) as packed, path.open("rb") as file:
        listed = packed.infolist()
        infos = {info.filename: info for info in listed}
        if len(infos) < len(listed):
            raise ValueError("two files of one name")
        chosen = listed if wanted is None else [infos[name] for name in wanted]
        if sum(info.file_size for info in chosen) > max_bytes:
            raise TooLarge(f"it unpacks to more than {max_bytes:,} bytes")
        starts, end = {}, 0
        for info in listed:
            starts[info.filename], end = _check_header(file, info, end)
        file.seek(-END.size, os.SEEK_END)
        start, count = packed.start_dir, len(listed)
        directory = (b"PK\5\6", 0, 0, count, count, size - END.size - start, start, 0)
        if end != start or END.unpack(file.read(END.size)) != directory:
            raise ValueError("data that belong to no file, or another number of files than it says")
        return {
            info.filename: _unpack(file, info, starts[info.filename])
            for info in chosen
            if not info.is_dir()
        }


def _check_header(file: BinaryIO, info: zipfile.ZipInfo, at: int) -> tuple[int, int]:
    """Require that the header of a file is at an offset, and agrees with the directory. Return the
    offsets of its first byte and of the byte after it."""
    if info.compress_type not in METHODS:
        raise ValueError("another method of compression than deflate")
    if info.flag_bits & 1:
        raise ValueError(f"{info.filename} is encrypted")
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise ValueError(f"{info.filename} is a link or a device")
    if info.is_dir() and (info.file_size or info.compress_size):
        raise ValueError(f"{info.filename} is a folder with data")
    file.seek(at)
    mark, _, flags, method, _, *sizes, name, extra = HEADER.unpack(file.read(HEADER.size))
    encoded = info.orig_filename.encode("utf-8" if info.flag_bits & 0x800 else "cp437")
    said = (mark, flags, method, sizes, file.read(name))
    packed = [info.CRC, info.compress_size, info.file_size]
    known = (b"PK\3\4", info.flag_bits, info.compress_type, packed, encoded)
    if info.header_offset != at or said != known:
        raise ValueError(f"the header of {info.filename} and the directory do not agree")
    start = at + HEADER.size + name + extra
    return start, start + info.compress_size


def _unpack(file: BinaryIO, info: zipfile.ZipInfo, start: int) -> bytes:
    """Return the content of a file, whose packed bytes must be all that it says."""
    file.seek(start)
    content = file.read(info.compress_size)
    is_whole = True
    if info.compress_type == zipfile.ZIP_DEFLATED:
        unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        content = unpacker.decompress(content, info.file_size + 1)
        is_whole = unpacker.eof and not unpacker.unused_data
    if not is_whole or len(content) != info.file_size or zlib.crc32(content) != info.CRC:
        raise ValueError(f"{info.filename} does not unpack to what the directory says")
    return content
