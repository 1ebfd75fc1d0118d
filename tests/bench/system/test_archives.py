"""Zip files that two readers could read differently."""

import contextlib
import struct
import zipfile
import zlib

import pytest

from bench.system import archives

FILES = [("one", b"a" * 500), ("two", b"b")]


def changed(at, form, value):
    """Overwrite a number, from the start, or from the end if `at` is negative."""

    def change(content):
        struct.pack_into(form, content, at % len(content), value)

    return change


def in_directory(offset, form, value):
    """Overwrite a number in the entry of the first file."""
    return lambda content: struct.pack_into(form, content, content.index(b"PK\1\2") + offset, value)


def insert(mark, more):
    """Insert bytes before a mark, and move the offset of the directory."""

    def change(content):
        at = content.index(mark)
        content[at:at] = more
        start = content.index(b"PK\1\2")
        struct.pack_into("<I", content, len(content) - 6, start)

    return change


def after_stream(content):
    """Add bytes to the first file, after the end of its stream."""
    insert(b"PK\3\4\x14\x00\x00\x00\x08", b"")(content)
    second = content.index(b"PK\3\4", 4)
    content[second:second] = b"more"
    size = struct.unpack_from("<I", content, 18)[0] + 4
    struct.pack_into("<I", content, 18, size)
    start = content.index(b"PK\1\2")
    struct.pack_into("<I", content, start + 20, size)
    entry = content.index(b"PK\1\2", start + 4)
    struct.pack_into("<I", content, entry + 42, second + 4)
    struct.pack_into("<I", content, len(content) - 6, start)


CHANGES = {
    "bytes after it": lambda content: content.extend(b"more"),
    "bytes before it": lambda content: content.__setitem__(slice(0, 0), b"more"),
    "bytes after a stream": after_stream,
    "fewer files in all": changed(-12, "<H", 1),
    "name in a header": changed(30, "<c", b"x"),
    "method in a header": changed(8, "<H", 0),
    "size in the directory": in_directory(24, "<I", 501),
    "encrypted": in_directory(8, "<H", 1),
    "a link": in_directory(38, "<I", 0o120777 << 16),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_no_archive_of_ours_has_is_refused(tmp_path, change):
    path = tmp_path / "a.zip"
    archives.write(path, FILES)
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)
    with pytest.raises(archives.FAULTS):
        archives.read(path, 10**6)


def test_a_folder_is_refused(tmp_path):
    archives.write(tmp_path / "a.zip", [("folder/", b"")])
    with pytest.raises(ValueError, match="folder/ is encrypted, no file, or not"):
        archives.read(tmp_path / "a.zip", 10**6)


@pytest.mark.filterwarnings("ignore:Duplicate")
def test_two_files_of_one_name_are_refused(tmp_path):
    archives.write(tmp_path / "a.zip", [*FILES, ("one", b"c")])
    with pytest.raises(ValueError, match="two files of one name"):
        archives.read(tmp_path / "a.zip", 10**6)


def test_every_changed_byte_is_refused_or_gives_the_same_files(tmp_path):
    """Dates, versions and attributes say nothing."""
    path = tmp_path / "a.zip"
    archives.write(path, FILES, stored=["two"])
    content = path.read_bytes()
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :])
        with contextlib.suppress(archives.FAULTS):
            assert archives.read(path, 10**6) == dict(FILES), at


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_what_the_library_writes_is_read(tmp_path, method):
    files = {"é/a": b"x" * 10**4, "b": b"", "c": zlib.compress(b"y")}
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as out:
        for name, content in files.items():
            out.writestr(name, content)
    assert archives.read(tmp_path / "a.zip", 10**6) == files
