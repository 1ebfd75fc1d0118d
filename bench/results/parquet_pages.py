"""Sizes in the page headers of a Parquet file, because pyarrow unpacks a page before it compares it
with the footer.

A page header is a struct in Thrift's compact protocol. Source: parquet.thrift and
thrift-compact-protocol.md of Apache.
"""

from __future__ import annotations

from typing import Any

UNCOMPRESSED_SIZE, COMPRESSED_SIZE = 2, 3
"""Numbers of fields of a PageHeader."""
STOP, TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(13)
"""Types of the compact protocol."""
MAX_DEPTH = 8
"""Largest depth of nested structs. A page header has three."""


def find_lie(content: bytes, footer: Any) -> str:
    """Return how the pages of a file exceed what its footer says, or "". footer: metadata of
    pyarrow."""
    for group in (footer.row_group(i) for i in range(footer.num_row_groups)):
        for chunk in (group.column(i) for i in range(group.num_columns)):
            if chunk.has_dictionary_page:
                start = chunk.dictionary_page_offset
            else:
                start = chunk.data_page_offset
            end = start + chunk.total_compressed_size
            if not 0 <= start <= end <= len(content):
                return f"has pages of {chunk.path_in_schema!r} outside the file"
            try:
                size = _unpacked_size(content[start:end])
            except (IndexError, ValueError):
                return f"has damaged pages of {chunk.path_in_schema!r}"
            if size > chunk.total_uncompressed_size:
                return (
                    f"has pages of {chunk.path_in_schema!r} that unpack to {size:,} bytes, but "
                    f"its footer says {chunk.total_uncompressed_size:,}"
                )
    return ""


def _unpacked_size(chunk: bytes) -> int:
    """Sum the unpacked sizes in the page headers of a column chunk. A damaged one raises IndexError
    or ValueError."""
    reader, total = _Reader(chunk), 0
    while reader.at < len(chunk):
        sizes = reader.read_struct()
        packed, unpacked = sizes[COMPRESSED_SIZE], sizes[UNCOMPRESSED_SIZE]
        if packed < 0 or unpacked < 0:
            raise ValueError("a negative size")
        reader.at += packed
        total += unpacked
    return total


class _Reader:
    def __init__(self, content: bytes) -> None:
        self._content, self.at = content, 0

    def _byte(self) -> int:
        self.at += 1
        return self._content[self.at - 1]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("a number of more than 64 bits")

    def _signed(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def read_struct(self, depth: int = 0) -> list[int]:
        """Read a struct. Return the whole numbers of its first fields, 0 where one is missing."""
        if depth > MAX_DEPTH:
            raise ValueError("too deep")
        numbers, field = [0] * 4, 0
        while (head := self._byte()) != STOP:
            step = head >> 4
            field = field + step if step else self._signed()
            kind = head & 15
            if kind in (I16, I32, I64):
                value = self._signed()
                if 0 <= field < len(numbers):
                    numbers[field] = value
            else:
                self._skip(kind, depth)
        return numbers

    def _skip(self, kind: int, depth: int) -> None:
        """Skip a value that is no whole number. Page headers have no list, set or map."""
        if kind == STRUCT:
            self.read_struct(depth + 1)
        elif kind == BINARY:
            length = self._varint()
            self.at += length
        elif kind in (BYTE, DOUBLE):
            self.at += 1 if kind == BYTE else 8
        elif kind not in (TRUE, FALSE):
            raise ValueError(f"type {kind}")
