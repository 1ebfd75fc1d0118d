"""What the two arguments of `bench compare` may be."""

from __future__ import annotations

import re
from pathlib import Path

from bench.compare import baseline
from bench.compare.result_set import ReadOnlyStore, ResultSet, gc_paused, items_of_file
from bench.results.record import Record
from bench.results.rows import latest
from methods.errors import UserError

METHOD_COLUMNS = ("method", "pattern", "calibration", "training")
"""What two methods, or two artifacts, need not share."""

RECORD_COLUMNS = ("measure", "protocol")


def resolve_both(a: str, b: str, results: Path) -> tuple[ResultSet, ResultSet, tuple[str, ...]]:
    """Two sides, and the parts of an identity in which they may differ.

    Each is a results folder, a baseline by file or name; or, in the folder `results`, a commit, a method's label or the
    beginning of a record's key, which stands for all that was measured of its artifact.

    Raises:
        UserError: there is no such thing, or it is several.
    """
    one, other = (_resolve(text, results) for text in (a, b))
    without = tuple(dict.fromkeys((*one[1], *other[1])))
    return one[0], other[0], without


def _resolve(text: str, results: Path) -> tuple[ResultSet, tuple[str, ...]]:
    path = Path(text)
    plainly_a_name = text == path.name and not (path / "records").is_dir()  # a folder may be called as a method is
    if (path.is_dir() and not plainly_a_name) or (path.is_file() and path.suffix == ".zip"):
        return read(path), ()
    if baseline.NAME.fullmatch(text) and (kept := baseline.path_of(text)).is_file():
        return read(kept), ()
    if not results.is_dir():
        raise UserError(
            f"{text!r} is no folder, and results folder {str(results)!r} is not there: name one with --results"
        )
    whole = read(results, every=True)
    found = [r for r in whole.records if r.identity.method == text]
    if found:
        return whole.only(text, latest(found)), METHOD_COLUMNS
    if re.fullmatch(r"[0-9a-f]{4,64}", text):
        if made := [r for r in whole.records if _commit(r).startswith(text)]:
            return whole.only(text, latest(_check_one_commit(text, made))), ()
        if named := [r for r in whole.records if r.key.startswith(text)]:
            return whole.only(text, _artifact_records(text, named, whole)), METHOD_COLUMNS
    known = sorted({str(r.identity.method) for r in whole.records})
    raise UserError(
        f"{text!r} is no folder, baseline, method, commit or record of {str(results)!r}: its methods are {', '.join(known)}"
    )


def _commit(record: Record) -> str:
    return str((record.provenance.get("commit") or {}).get("id") or "")


def _check_one_commit(text: str, made: list[Record]) -> list[Record]:
    if len(commits := {_commit(r) for r in made}) > 1:
        raise UserError(f"{len(commits)} commits begin with {text!r}: write more of it")
    return made


def _artifact_records(text: str, named: list[Record], whole: ResultSet) -> list[Record]:
    """All that was measured of one artifact. Its seed is left out of account: it is one draw, whichever."""
    if len(named) > 1:
        raise UserError(f"{len(named)} records begin with {text!r}: write more of it")
    about = named[0].identity.key(*RECORD_COLUMNS)
    found = latest(r for r in whole.records if r.identity.key(*RECORD_COLUMNS) == about)
    return [r.model_copy(update={"identity": r.identity.model_copy(update={"seed": None})}) for r in found]


@gc_paused()
def read(path: Path, what: str = "results", *, every: bool = False) -> ResultSet:
    """A results folder, or a file that `bench baseline set` wrote. every: all records, not the newest of each identity.

    Raises:
        UserError: it is not there, or something in it cannot be read. `what` is said with it.
    """
    if path.is_file():
        return baseline.read(path)
    if not path.is_dir():
        raise UserError(f"{what} {str(path)!r} is not there: name a results folder or a file of bench baseline set")
    if not (path / "records").is_dir():
        raise UserError(f"{what} {str(path)!r} is no results folder: it has no records/ in it")
    store = ReadOnlyStore(path, write=False)
    records = list(store)
    if store.moved:
        raise UserError(f"{what} cannot be read: {store.moved[0]}: delete it, or run the same bench run again")
    if not records:
        raise UserError(f"{what} {str(path)!r} holds no records: run bench run --results {path} first")
    return ResultSet(
        str(path), tuple(records if every else latest(records)), lambda record: items_of_file(path, record)
    )
