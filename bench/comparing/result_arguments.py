"""Find the results that arguments of `bench compare` and `bench gate` name."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.comparing import baseline
from bench.comparing.result_set import ResultSet, gc_paused
from bench.results.identity import COLUMNS, IdentityKey
from bench.results.record import Record
from bench.results.rows import latest
from bench.results.store import ReadOnlyStore, require_results
from methods.contract.errors import UserError

METHOD_COLUMNS = ("method", "pattern", "calibration", "training")
"""Columns of an identity in which two compared methods, or two artifacts, may differ."""

RECORD_COLUMNS = ("measure", "protocol")
"""Columns in which the records of one artifact differ."""


def resolve_both(a: str, b: str, results: Path) -> tuple[ResultSet, ResultSet, tuple[str, ...]]:
    """Return two result sets, and the columns of an identity in which they may differ, or raise
    UserError.

    An argument names a results folder, or a baseline by file or name. It may also name a part of
    the folder `results`: a commit, a method's label, or the beginning of a record's key for all
    measurements of its artifact.
    """
    before, some = _resolve(a, results)
    after, others = _resolve(b, results)
    if not some and not others:
        return before, after, ()
    ignore = _columns_to_ignore(before.records, after.records)
    was, now = _artifacts(before.records, ignore), _artifacts(after.records, ignore)
    if not was & now:
        raise UserError(
            f"no row of {a!r} pairs with one of {b!r}: {_describe_difference(was, now)}: name two "
            f"records (bench ls runs) of rows that differ only in {', '.join(METHOD_COLUMNS)}"
        )
    return before, after, ignore


def _columns_to_ignore(*sides: Sequence[Record]) -> tuple[str, ...]:
    """Return METHOD_COLUMNS without columns that a pair must share: one side has several values of
    them."""
    ignore: tuple[str, ...] = METHOD_COLUMNS
    for column in METHOD_COLUMNS:
        fewer = tuple(c for c in ignore if c != column)
        if any(len(_artifacts(side, fewer)) > len(_artifacts(side, ignore)) for side in sides):
            ignore = fewer
    return ignore


def _artifacts(records: Iterable[Record], ignore: tuple[str, ...]) -> set[IdentityKey]:
    """Return identities without measure and seed."""
    return {record.identity.key("seed", *RECORD_COLUMNS, *ignore) for record in records}


def _describe_difference(was: Iterable[IdentityKey], now: Iterable[IdentityKey]) -> str:
    """Describe the columns without a common value, or else those with other values."""
    disjoint, differing = [], []
    for column in COLUMNS:
        before = {str(dict(key).get(column, "none")) for key in was}
        after = {str(dict(key).get(column, "none")) for key in now}
        text = f"{column} {', '.join(sorted(before))} against {', '.join(sorted(after))}"
        if before.isdisjoint(after):
            disjoint.append(text)
        elif before != after:
            differing.append(text)
    return "; ".join(disjoint or differing)


def _resolve(text: str, results: Path) -> tuple[ResultSet, tuple[str, ...]]:
    path = Path(text)
    # A folder may have the name of a method.
    is_name = text == path.name and not (path / "records").is_dir()
    if (path.is_dir() and not is_name) or (path.is_file() and path.suffix == ".zip"):
        return read(path), ()
    if baseline.NAME.fullmatch(text) and baseline.path_of(text).is_file():
        return read(baseline.path_of(text)), ()
    if not any((results / "records").glob("*.json")):
        state = "has no records" if results.is_dir() else "does not exist"
        raise UserError(
            f"{text!r} is not a folder, and results folder {str(results)!r} {state}: name one "
            "with --results"
        )
    every = read(results, every=True)
    of_method = [r for r in every.records if text in (r.identity.method, *r.identity.stages[-1:])]
    if of_method:
        return every.only(text, latest(of_method)), METHOD_COLUMNS
    if re.fullmatch(r"[0-9a-f]{4,64}", text):
        of_commit = [r for r in every.records if str(r.code.get("id") or "").startswith(text)]
        commits = {r.code["id"] for r in of_commit}
        if len(commits) > 1:
            raise UserError(f"{len(commits)} commits begin with {text!r}: give more digits")
        if of_commit:
            return every.only(text, latest(of_commit)), ()
        with_key = [r for r in every.records if r.key.startswith(text)]
        if with_key:
            return every.only(text, _artifact_records(text, with_key, every)), METHOD_COLUMNS
    known = sorted({str(r.identity.method) for r in every.records})
    raise UserError(
        f"{text!r} is not a folder, baseline, method, commit or record of {str(results)!r}: known "
        f"methods: {', '.join(known)}"
    )


def _artifact_records(text: str, with_key: list[Record], every: ResultSet) -> list[Record]:
    """Return all measurements of one artifact, with seed 0 if it has one: artifacts are compared
    across seeds."""
    if len(with_key) > 1:
        raise UserError(f"{len(with_key)} records begin with {text!r}: give more digits")
    key = with_key[0].identity.key(*RECORD_COLUMNS)
    records = latest(r for r in every.records if r.identity.key(*RECORD_COLUMNS) == key)
    seed = None if with_key[0].identity.seed is None else 0
    return [
        r.model_copy(update={"identity": r.identity.model_copy(update={"seed": seed})})
        for r in records
    ]


@gc_paused()
def read(path: Path, what: str = "results", *, every: bool = False, model: str = "") -> ResultSet:
    """Read a results folder, or a file that `bench baseline set` wrote, or raise UserError.

    what: kind of the path, for error messages. every: all records, not only the newest of each
    identity. model: read the records of this model alone, which may be none. "": of all.
    """
    if path.is_file():
        return baseline.read(path)
    if not path.is_dir():
        raise UserError(
            f"{what} {str(path)!r} does not exist: name a results folder or a file of bench "
            "baseline set"
        )
    require_results(path)
    store = ReadOnlyStore(path)
    records = list(store.sound(model))
    store.require_whole(what)
    if not records and next(store.listed(), None) is None:
        raise UserError(
            f"{what} {str(path)!r} has no records: run bench run --results "
            f"{shlex.quote(str(path))} first"
        )
    if not every:
        records = latest(records)
    return ResultSet(str(path), tuple(records), store.items)
