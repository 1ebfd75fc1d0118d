"""Records on disk: the only state. One JSON a measurement, its per-item scores beside it in Parquet."""

from __future__ import annotations

import errno
import os
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


class Store:
    """A results folder.

    Raises:
        UserError: it cannot be made or written.
    """

    def __init__(self, root: Path, *, write: bool = True) -> None:
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
                    f"results folder {str(root)!r} cannot be written ({fault.strerror}): name another with --results"
                ) from None
        elif not root.is_dir():
            raise UserError(
                f"results folder {str(root)!r} is not there: name one with --results, or run bench run first"
            )

    def lock(self, key: str) -> Path:
        return self.root / "locks" / f"{key[:32]}.lock"

    def path(self, key: str) -> Path:
        return self.root / "records" / f"{key[:32]}.json"

    def get(self, key: str) -> Record | None:
        path = self.path(key)
        return self._read(path) if path.exists() else None

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
            raise UserError(
                f"{len(paths)} records in {str(self.root)!r} begin with {stem!r}: bench report --format json lists them"
            )
        if (record := self._read(paths[0])) is None:
            raise UserError(self.moved[-1])
        return record

    def _read(self, path: Path) -> Record | None:
        """A corrupt record is moved aside and named, so that it is computed again and never read as empty."""
        try:
            record = parse(path.read_bytes(), str(path))
        except FileNotFoundError:
            return None
        except ValueError as fault:
            self._aside(path, f"is no record ({str(fault).splitlines()[0]})")
            return None
        if record.key[:32] != path.stem:
            self._aside(path, "does not bear its own key")
            return None
        if record.items:
            items = self.root / "items" / Path(record.items.file).name
            if not items.exists():
                self._aside(path, f"has lost its items {items.name}")
                return None
        return record

    def _aside(self, path: Path, why: str) -> None:
        target = self.root / "corrupt" / f"{path.name}.{time.time_ns()}"
        try:
            target.parent.mkdir(exist_ok=True)
            path.rename(target)
            self.moved.append(f"{path} {why}: moved to {target}")
        except OSError:
            self.moved.append(f"{path} {why}: ignored")

    def write(self, record: Record, items: tuple[Item, ...] = ()) -> None:
        """Items first, then the record: a record that is there is whole."""
        if items:
            import pandas as pd

            table = pd.DataFrame([i[:4] for i in items], columns=["item_id", "cluster_id", "value", "weight"])
            for name in items[0].beside:
                table[name] = [i.beside[name] for i in items]
            path = self.root / "items" / f"{record.key[:32]}.parquet"
            with atomic_write(path) as temporary:
                table.to_parquet(temporary, index=False)
            record.items = ItemsFile(file=path.name, rows=len(items), sha256=digests.of_file(path))
        with atomic_write(self.path(record.key)) as temporary:
            temporary.write_text(record.model_dump_json(indent=1) + "\n")

    def items(self, record: Record) -> pd.DataFrame:
        """Per-item scores: item_id, cluster_id, value, weight, and a column for each further metric.

        Raises:
            UserError: the file is not the one the record speaks of.
        """
        import pandas as pd

        assert record.items is not None
        path = self.root / "items" / Path(record.items.file).name
        if digests.of_file(path) != record.items.sha256:
            raise UserError(
                f"{path} does not match its record (checksum mismatch): delete record {record.key[:32]} and run again"
            )
        return pd.read_parquet(path)


def is_disk_full(fault: BaseException) -> bool:
    """safetensors says it in words alone."""
    codes = (errno.ENOSPC, errno.EDQUOT)
    return getattr(fault, "errno", None) in codes or any(f"(os error {code})" in str(fault) for code in codes)


def writable(path: Path) -> bool:
    return os.access(path, os.W_OK)
