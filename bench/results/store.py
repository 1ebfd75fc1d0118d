"""Records on disk: the only state. One JSON a measurement, its per-item scores beside it in Parquet."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bench.results.record import ItemsFile, Record, parse
from bench.system import digests
from bench.system.files import atomic_write, sweep
from methods.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from bench.results.record import Item

RESULTS = Path("results/local")
"""Not committed; the records this repository publishes lie in folders beside it."""
PATIENCE_S = 60.0
"""For a shared folder that is gone to come back."""
LOOK_S = 0.2


class Store:
    """A results folder.

    Raises:
        UserError: it cannot be made or written.
    """

    def __init__(self, root: Path, *, write: bool = True, how: str = "with --results") -> None:
        """how: a folder is named to the command that asks, in the words of an error."""
        self.root = root
        self.moved: list[str] = []
        """Corrupt records that were moved aside, a sentence each."""
        if write:
            try:
                for folder in ("records", "items", "locks"):
                    (root / folder).mkdir(parents=True, exist_ok=True)
                    sweep(root / folder)
                with atomic_write(root / "records" / ".probe"):
                    pass
                (root / "records" / ".probe").unlink(missing_ok=True)
            except OSError as fault:
                if fault.errno == errno.ENOSPC:
                    raise
                raise UserError(
                    f"results folder {str(root)!r} cannot be written ({fault.strerror}): name another {how}"
                ) from None
        elif root.is_file():
            raise UserError(f"results folder {str(root)!r} is a file, not a folder: name another {how}")
        elif not root.is_dir():
            raise UserError(f"results folder {str(root)!r} is not there: name one {how}, or run bench run first")

    def lock(self, key: str) -> Path:
        return self.root / "locks" / f"{key[:32]}.lock"

    def path(self, key: str) -> Path:
        return self.root / "records" / f"{key[:32]}.json"

    def get(self, key: str) -> Record | None:
        """The record of a key, if it and its items are whole."""
        path = self.path(key)
        record = self._read(path) if path.exists() else None
        if record and record.items and digests.of_file(self.items_path(record)) != record.items.sha256:
            self._aside(path, f"has other items than when it was written ({record.items.file})")
            return None
        return record

    def __iter__(self) -> Iterator[Record]:
        for path in sorted((self.root / "records").glob("*.json")):
            if (record := self._read(path)) is not None:
                yield record

    def find(self, prefix: str) -> Record:
        """
        Raises:
            UserError: no record, or several, begin with the prefix.
        """
        stem = Path(prefix).stem
        paths = [p for p in sorted((self.root / "records").glob("*.json")) if p.stem.startswith(stem[:32])]
        if len(paths) != 1:
            lists = f"bench ls runs --results {shlex.quote(str(self.root))} lists them"
            raise UserError(f"{len(paths)} records in {str(self.root)!r} begin with {stem!r}: {lists}")
        if (record := self._read(paths[0])) is None:
            raise UserError(self.moved[-1])
        return record

    def _read(self, path: Path) -> Record | None:
        """A corrupt record is moved aside and named, so that it is computed again and never read as empty."""
        try:
            if path.exists() and not path.is_file():  # a pipe would be waited for
                raise ValueError("it is no file")
            record = parse(path.read_bytes(), str(path))
        except FileNotFoundError:
            return None
        except ValueError as fault:
            self._aside(path, f"is no record ({str(fault).splitlines()[0]})")
            return None
        if record.stem != path.stem:
            self._aside(path, "does not bear its own key")
            return None
        if damage := self._damage_to_items(record):
            self._aside(path, damage)
            return None
        return record

    def _damage_to_items(self, record: Record) -> str:
        """What a look at the file's size shows; "" where that is right, or there are none."""
        if record.items is None:
            return ""
        path = self.items_path(record)
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return f"has lost its items {path.name}"
        whole = record.items.size
        return "" if whole in (None, size) else f"has damaged items: {path.name} has {size:,} of {whole:,} bytes"

    def items_path(self, record: Record) -> Path:
        """The file of a record's items, which must have some."""
        assert record.items is not None
        return self.root / "items" / Path(record.items.file).name

    def _aside(self, path: Path, why: str) -> None:
        target = self.root / "corrupt" / f"{path.name}.{time.time_ns()}"
        try:
            target.parent.mkdir(exist_ok=True)
            path.rename(target)
            self.moved.append(f"{path} {why}: moved to {target}")
        except OSError:
            self.moved.append(f"{path} {why}: ignored")

    def write(self, record: Record, items: tuple[Item, ...] = ()) -> None:
        """Write a record and its items. Waits for a shared folder that is gone for a while."""
        content = b""
        if items:
            import pandas as pd

            table = pd.DataFrame([i[:4] for i in items], columns=["item_id", "cluster_id", "value", "weight"])
            for name in items[0].beside:
                table[name] = [i.beside[name] for i in items]
            content = table.to_parquet(index=False)
            sha256 = hashlib.sha256(content).hexdigest()
            record.items = ItemsFile(file="", rows=len(items), sha256=sha256, size=len(content))
        self.write_content(record, content)

    def write_content(self, record: Record, content: bytes) -> None:
        """The same, from the content of the items' file; b"" where it has none, or where they are there already.

        Items first, then the record: a record that is there is whole.
        """
        wait_for_folder(self.root)
        if content:
            assert record.items is not None
            record.items.file = f"{record.stem}.parquet"
            with atomic_write(self.items_path(record)) as temporary:
                temporary.write_bytes(content)
        with atomic_write(self.path(record.key)) as temporary:
            temporary.write_text(record.to_json(indent=1) + "\n")

    def items(self, record: Record) -> pd.DataFrame:
        """Per-item scores: item_id, cluster_id, value, weight, and a column for each further metric.

        Raises:
            UserError: as for `content`.
        """
        import pandas as pd

        return pd.read_parquet(io.BytesIO(self.content(record)))

    def content(self, record: Record) -> bytes:
        """What is in the file of a record's items.

        Raises:
            UserError: it has none, or the file is missing or not the one that the record names.
        """
        if record.items is None:
            raise UserError(
                f"record {record.short_key} in {str(self.root)!r} has no per-item scores: run its measurement again"
            )
        path = self.items_path(record)
        content = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(content).hexdigest() != record.items.sha256:
            raise UserError(
                f"checksum mismatch: {path} is missing or does not match its record: delete record {record.stem} and run again"
            )
        return content


class ReadOnlyStore(Store):
    """A store that moves no corrupt record aside: results may be part of a commit."""

    def __iter__(self) -> Iterator[Record]:
        folder = self.root / "records"
        listed = os.listdir(folder) if folder.is_dir() else []
        names = sorted(n for n in listed if n.endswith(".json"))  # thousands of Paths are slow to sort
        for name in names:
            if (record := self._read(folder / name)) is not None:
                yield record

    def require_whole(self, what: str = "results") -> None:
        """After a look at the records. what: the folder is, for the sentence.

        Raises:
            UserError: one of them could not be read.
        """
        if self.moved:
            raise UserError(f"cannot read {what}: {self.moved[0]}: delete it, or run the same bench run again")

    def _aside(self, path: Path, why: str) -> None:
        self.moved.append(f"{path} {why}")


def is_disk_full(fault: BaseException) -> bool:
    """safetensors says it in words alone."""
    codes = (errno.ENOSPC, errno.EDQUOT)
    return getattr(fault, "errno", None) in codes or any(f"(os error {code})" in str(fault) for code in codes)


def wait_for_folder(root: Path) -> None:
    """Wait for a results folder that was there and is gone. It must not be made anew: what was in it may come back.

    Raises:
        FileNotFoundError: it does not, within PATIENCE_S.
    """
    end = time.monotonic() + PATIENCE_S
    while not is_folder(root / "records"):
        if time.monotonic() > end:
            raise FileNotFoundError(errno.ENOENT, "the results folder is gone", str(root))
        time.sleep(LOOK_S)


def require_results(root: Path) -> None:
    """
    Raises:
        UserError: no results folder.
    """
    if not (root / "records").is_dir():
        raise UserError(f"{str(root)!r} is no results folder: it has no records/ in it")


def is_folder(path: Path) -> bool:
    """Whether it is one now: a disk that cannot be reached has none."""
    try:
        return path.is_dir()
    except OSError:
        return False


def writable(path: Path) -> bool:
    return os.access(path, os.W_OK)
