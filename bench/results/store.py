"""Records on disk: the only state. One JSON file for each measurement, and its per-item scores in
Parquet beside it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shlex
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bench.results.record import (
    DONE,
    Item,
    ItemsFile,
    NoItems,
    OtherSchema,
    Record,
    RecordName,
    parse,
    parse_name,
)
from bench.system.files import atomic_write, sweep, write_file
from methods.contract.errors import UserError, first_line

if TYPE_CHECKING:
    from bench.results.computed import Memory
    from bench.results.derive import Items
    from bench.results.record_check import Evidence

DECIDES_NO_NUMBER = True

RESULTS = Path("results/local")
"""Default results folder. It is not committed. Published records are in folders beside it."""
FOLDERS = ("records", "items", "locks", "corrupt", "runs", "logs", "signatures")
"""Folders in a results folder. A link in place of one would lead our files elsewhere."""
MAX_BYTES = 2**26
"""Largest size of a record, and of a file of items. Ours have at most a third of it."""
R = TypeVar("R", Record, RecordName)
PATIENCE_S = 60.0
"""Timeout for a shared folder to come back."""
LOOK_S = 0.2
"""Seconds between two looks at a shared folder."""


class ReadOnlyStore:
    """A results folder that exists, and is read. Results may be part of a commit, so nothing in it
    is changed."""

    def __init__(self, root: Path, *, how: str = "with --results") -> None:
        """how: how the user names the folder, for errors."""
        self.root = root
        self.damaged: list[str] = []
        """A sentence for each record that could not be read."""
        self._texts: dict[str, str] = {}
        """Digest of the file of each record that was read, by key."""
        self._memories: dict[int, Memory] = {}
        self._known: set[str] = set()
        """Keys of records whose file and items were checked."""
        if root.is_file():
            raise UserError(
                f"results folder {str(root)!r} is a file, not a folder: name another {how}"
            )
        if not root.is_dir():
            raise UserError(
                f"results folder {str(root)!r} is not there: name one {how}, or run bench run first"
            )

    @property
    def _memory(self) -> Memory:
        """Answers of this process, because a fork opens the file again."""
        from bench.results.computed import memory

        if os.getpid() not in self._memories:
            self._memories[os.getpid()] = memory(__name__)
        return self._memories[os.getpid()]

    def path(self, key: str) -> Path:
        return self.root / "records" / f"{key[:32]}.json"

    def items_path(self, record: Record) -> Path:
        """Return the file of a record's items. The record must have some."""
        assert record.items is not None
        return self.root / "items" / Path(record.items.file).name

    def get(self, key: str) -> Record | None:
        """Return the record of a key, or None if there is none or it does not hold."""
        return self._hold(self.path(key))

    def finished(self, key: str) -> Record | None:
        """Return the record of a key, as `get` does, if a later run does not measure it again."""
        record = self.get(key)
        if record and record.status in DONE:
            return record
        return None

    def __iter__(self) -> Iterator[Record]:
        """Yield the records that hold. The others are damaged."""
        return self.sound()

    def sound(self, model: str = "") -> Iterator[Record]:
        """Yield the records that hold. model: of this model only."""
        for path in self._paths():
            record = self._hold(path, model)
            if record is not None:
                yield record
        self._memory.save()

    def checked(self) -> Iterator[tuple[Record, Evidence]]:
        """Yield the records that hold, each with what its numbers rest on, computed now."""
        for path in self._paths():
            found = self._check(path)
            if found:
                yield found

    def listed(self) -> Iterator[Record]:
        """Yield all records that can be read, to name them. Their numbers may be anything."""
        for path in self._paths():
            record = self._read_whole(path, parse)
            if record is not None:
                yield record

    def names(self) -> Iterator[RecordName]:
        """Yield the names of all records that can be read, for a list. Nothing is checked."""
        for path in self._paths():
            named = self._read(path, parse_name)
            if named is not None:
                yield named

    def find(self, prefix: str) -> Record:
        """Return the only record whose key begins with a prefix, or raise UserError, also if its
        items give other numbers."""
        stem = Path(prefix).stem
        paths = [path for path in self._paths() if path.stem.startswith(stem[:32])]
        if len(paths) != 1:
            lists = f"bench ls runs --results {shlex.quote(str(self.root))} lists them"
            raise UserError(
                f"{len(paths)} records in {str(self.root)!r} begin with {stem!r}: {lists}"
            )
        found = self._hold(paths[0])
        if found is None:
            raise UserError(self.damaged[-1])
        return found

    def _paths(self) -> list[Path]:
        folder = self.root / "records"
        names = os.listdir(folder) if folder.is_dir() else []  # thousands of Paths are slow to sort
        return [folder / name for name in sorted(names) if name.endswith(".json")]

    def _hold(self, path: Path, model: str = "") -> Record | None:
        """Return a record that holds, or None. This machine may have checked it before: its digest
        and the items', which are compared, say that nothing has changed."""
        record = self._read_whole(path, self._recall)
        if record is None or model not in ("", record.identity.model):
            return None
        if record.key in self._known:
            with contextlib.suppress(UserError):
                if record.items:
                    self.content(record)
                return record
        if self._check(path, record) is None:
            return None
        self._memory.put(True, "holds", self._texts[record.key])
        self._known.add(record.key)
        return record

    def _check(self, path: Path, record: Record | None = None) -> tuple[Record, Evidence] | None:
        """Return a record that holds, or None. Set one that does not aside.

        record: that of the path, if it was read.
        """
        from bench.catalog.registry import PluginFault
        from bench.results.record_check import check_record

        record = record or self._read_whole(path, parse)
        if record is None:
            return None
        try:
            return record, check_record(record, self.items(record) if record.items else None)
        except PluginFault as fault:  # the record may be right
            self.damaged.append(f"{path} cannot be checked: {fault}")
        except UserError as fault:
            self._set_aside(path, f"does not hold: {fault}")
        return None

    def _read(self, path: Path, parse: Callable[[bytes, str], R]) -> R | None:
        """Return what a function reads in a record's text. Set a damaged record aside: it is made
        again, and never read as empty. One of another schema stays."""
        try:
            return parse(_read_content(path), str(path))
        except OtherSchema as fault:
            self.damaged.append(str(fault))
            return None
        except FileNotFoundError:
            return None
        except ValueError as fault:
            self._set_aside(path, f"is no record ({first_line(fault)})")
            return None

    def _read_whole(self, path: Path, parse: Callable[[bytes, str], Record]) -> Record | None:
        """Return a record as `_read` does, if its file and that of its items are its own by name
        and size."""
        record = self._read(path, parse)
        wrong = record and self._find_wrong_file(record, path)
        if wrong:
            self._set_aside(path, wrong)
            return None
        return record

    def _recall(self, content: bytes, name: str) -> Record:
        """Parse a record, faster if this machine has checked the same bytes before."""
        text = hashlib.sha256(content).hexdigest()
        is_known = bool(self._memory.get("holds", text))
        record = parse(content, name, known=is_known)
        self._texts[record.key] = text
        if is_known:
            self._known.add(record.key)
        return record

    def _find_wrong_file(self, record: Record, path: Path) -> str:
        """Return what is wrong with the name of a record's file or the size of its items' file, or
        ""."""
        if record.stem != path.stem:
            return "does not bear its own key"
        if record.items is None:
            return ""
        items = self.items_path(record)
        return "" if items.is_file() else f"has lost its items {items.name}"

    def _set_aside(self, path: Path, why: str) -> None:
        self.damaged.append(f"{path} {why}")

    def require_whole(self, what: str = "results") -> None:
        """Raise UserError if a record could not be read. Call it after reading all. what: what the
        folder is, for the error."""
        if self.damaged:
            raise UserError(
                f"cannot read {what}: {self.damaged[0]}: delete it, or run the same bench run again"
            )

    def items(self, record: Record) -> Items:
        """Return per-item scores. Raise UserError if they are not those whose digest the record
        has."""
        from bench.results.items import unpack

        content = self.content(record)
        name = str(self.items_path(record))
        return unpack(content, record, name, known=record.key in self._known)

    def content(self, record: Record) -> bytes:
        """Return the content of the file of a record's items, or raise UserError if it is not the
        one of the record. Raise OSError if it cannot be read: the record may be right."""
        if record.items is None:
            raise NoItems(
                f"record {record.short_key} in {str(self.root)!r} has no per-item scores: run its "
                "measurement again"
            )
        path = self.items_path(record)
        try:
            content = _read_content(path)
        except (FileNotFoundError, ValueError):
            content = b""
        record.items.require_whole(content, str(path))
        return content


def _read_content(path: Path) -> bytes:
    """Return the content of a file. Raise ValueError if it is none or too large."""
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):  # reading a pipe would block
        raise ValueError("it is no file")
    if about.st_size > MAX_BYTES:
        raise ValueError(f"{about.st_size:,} bytes, more than {MAX_BYTES:,}")
    return path.read_bytes()


class Store(ReadOnlyStore):
    """A results folder that is written. It raises UserError if it cannot be made or written."""

    def __init__(self, root: Path) -> None:
        try:
            refuse_links(root)
            for folder in ("records", "items", "locks"):
                (root / folder).mkdir(parents=True, exist_ok=True)
                sweep(root / folder)
            with atomic_write(root / "records" / ".probe"):
                pass
            (root / "records" / ".probe").unlink(missing_ok=True)
        except OSError as fault:
            if is_disk_full(fault):
                raise
            raise UserError(
                f"results folder {str(root)!r} cannot be written ({fault.strerror}): name another "
                "with --results"
            ) from None
        super().__init__(root)

    def lock(self, key: str) -> Path:
        return self.root / "locks" / f"{key[:32]}.lock"

    def _set_aside(self, path: Path, why: str) -> None:
        target = self.root / "corrupt" / f"{path.name}.{time.time_ns()}"
        try:
            target.parent.mkdir(exist_ok=True)
            path.rename(target)
            self.damaged.append(f"{path} {why}: moved to {target}")
        except OSError:
            self.damaged.append(f"{path} {why}: ignored")

    def write(self, record: Record, items: tuple[Item, ...] = ()) -> None:
        """Write a record and its items. Wait for a while if a shared folder is gone."""
        content = b""
        if items:
            from bench.results.items import pack

            content = pack(items)
            sha256 = hashlib.sha256(content).hexdigest()
            record.items = ItemsFile(file="", rows=len(items), sha256=sha256, size=len(content))
        self.write_content(record, content)

    def write_content(self, record: Record, content: bytes) -> None:
        """Write a record and the content of its items' file: b"" if it has none, or if the file is
        there already.

        The items are written first, so a record that exists is whole.
        """
        if content:
            assert record.items is not None
            record.items.file = f"{record.stem}.parquet"
        self._put(record, (record.to_json(indent=1) + "\n").encode(), content)

    def copy(self, record: Record, source: ReadOnlyStore) -> None:
        """Copy a record's files from another folder, byte by byte, so that its digest and
        signatures stay."""
        text = source.path(record.key).read_bytes()
        self._put(record, text, source.content(record) if record.items else b"")

    def _put(self, record: Record, text: bytes, items: bytes) -> None:
        wait_for_folder(self.root)
        paths = [self.path(record.key)]
        if items:
            paths.append(self.items_path(record))
        for path in paths:
            if path.is_symlink():  # it would lead our file elsewhere
                path.unlink()
        if items:
            write_file(self.items_path(record), items)
        write_file(self.path(record.key), text)


def refuse_links(root: Path) -> None:
    """Raise UserError if a folder in a results folder is a link."""
    for folder in FOLDERS:
        if (root / folder).is_symlink():
            raise UserError(
                f"{root / folder} is a link: replace it by a folder, because results are written "
                "there"
            )


def is_disk_full(fault: BaseException) -> bool:
    """Return whether an error says that the disk is full. safetensors, torch and numpy say it in
    their text only."""
    codes = (errno.ENOSPC, errno.EDQUOT)
    texts = [text for code in codes for text in (f"(os error {code})", f"[Errno {code}]")]
    # numpy's count of what it could not write.
    short = re.search(r"\b\d+ requested and \d+ written", str(fault))
    return (
        getattr(fault, "errno", None) in codes
        or bool(short)
        or any(text in str(fault) for text in texts)
    )


def wait_for_folder(root: Path) -> None:
    """Wait PATIENCE_S for a shared results folder. Do not make it again: its content may come back,
    too."""
    end = time.monotonic() + PATIENCE_S
    while not os.path.isdir(root / "records"):  # False, too, for a disk that cannot be reached
        if time.monotonic() > end:
            raise FileNotFoundError(errno.ENOENT, "the results folder is gone", str(root))
        time.sleep(LOOK_S)


def require_results(root: Path) -> None:
    """Raise UserError if a folder is no results folder."""
    if not (root / "records").is_dir():
        raise UserError(f"{str(root)!r} is no results folder: it has no records/ in it")
