"""Zip files: the same content gives the same bytes, and a file from outside is read within
limits."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterable
from pathlib import Path

from bench.system.files import atomic_write

MAX_RATIO = 64
"""Largest ratio of the unpacked files to the zip file. Records are packed to a tenth."""
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Methods of compression. The others unpack without a limit."""
UTF8_NAME = 0x800
"""The one flag that a file of ours may have. Others say that it is encrypted, or that its sizes
follow its data."""
END = struct.Struct("<4s4H2IH")
"""End of a zip file: signature, two disks, number of files on this disk and in all, size and offset
of the directory, length of the comment."""
FAULTS = (
    zipfile.BadZipFile, zlib.error, struct.error, OverflowError, KeyError, ValueError, TypeError,
    OSError, EOFError, RuntimeError,
)  # fmt: skip
"""Errors of a damaged zip file."""


def write(path: Path, files: Iterable[tuple[str, bytes]], stored: Collection[str] = ()) -> None:
    """Write files with one date. stored: names of those that are compressed already."""
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w") as out:
        for name, content in files:
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_STORED if name in stored else zipfile.ZIP_DEFLATED
            out.writestr(info, content)


def read(path: Path, max_bytes: int, wanted: Collection[str] | None = None) -> dict[str, bytes]:
    """Return the files by name. wanted: names that are read, by default all. They must be there.

    Raise an error of FAULTS if it is damaged; if it is, or unpacks to, more than max_bytes, or
    MAX_RATIO times its own size; or if it is not laid out as `write` does, so that two readers
    could find different files in it.
    """
    if path.stat().st_size > max_bytes:
        raise ValueError(f"it has more than {max_bytes:,} bytes")
    content = path.read_bytes()
    max_bytes = min(max_bytes, MAX_RATIO * len(content))
    with zipfile.ZipFile(io.BytesIO(content)) as packed:
        listed, directory = packed.infolist(), packed.start_dir
    infos = {info.filename: info for info in listed}
    if len(infos) < len(listed):
        raise ValueError("two files of one name")
    chosen = listed if wanted is None else [infos[name] for name in wanted]
    if sum(info.file_size for info in chosen) > max_bytes:
        raise ValueError(f"it unpacks to more than {max_bytes:,} bytes")
    starts, end = {}, 0
    for info in listed:
        kind = stat.S_IFMT(info.external_attr >> 16)
        is_plain = info.compress_type in METHODS and not info.flag_bits & ~UTF8_NAME
        if not is_plain or info.is_dir() or kind not in (0, stat.S_IFREG):
            raise ValueError(f"{info.filename} is encrypted, no file, or not packed by deflate")
        header = info.FileHeader()
        if info.header_offset != end or not content.startswith(header, end):
            raise ValueError(f"the header of {info.filename} and the directory do not agree")
        starts[info.filename] = end + len(header)
        end = starts[info.filename] + info.compress_size
    count, size = len(listed), len(content) - END.size - end
    last = END.pack(b"PK\5\6", 0, 0, count, count, size, end, 0)
    if directory != end or not content.endswith(last):
        raise ValueError("data that belong to no file, or another number of files than it says")
    return {info.filename: _unpack(content, info, starts[info.filename]) for info in chosen}


def _unpack(content: bytes, info: zipfile.ZipInfo, start: int) -> bytes:
    """Return the content of a file, whose packed bytes must be all that it says."""
    out, is_whole = content[start : start + info.compress_size], True
    if info.compress_type == zipfile.ZIP_DEFLATED:
        unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        out = unpacker.decompress(out, info.file_size + 1)
        is_whole = unpacker.eof and not unpacker.unused_data
    if not is_whole or len(out) != info.file_size or zlib.crc32(out) != info.CRC:
        raise ValueError(f"{info.filename} does not unpack to what the directory says")
    return out
