"""The folder of a submission, and the archive that holds it: make, write and read them."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import tomlkit

from bench.comparing.result_set import ResultSet
from bench.parts.submission import licences, submission_rules
from bench.parts.submission.review import index
from bench.reporting.searches import FILE as ABOUT_FILE
from bench.results import signatures
from bench.results.folder_check import check_folder
from bench.results.record import DONE
from bench.results.rows import newest
from bench.results.store import ReadOnlyStore, Store
from bench.system import archives
from bench.system.cache import temporary_folder
from bench.system.text import amount
from methods.contract.errors import UserError, first_line

MAX_BYTES = 2**30
"""Largest unpacked size of an archive."""
COMPRESSED = (".parquet",)


@dataclass(frozen=True)
class Contributor:
    """Credit, purpose and licences that the contributor states."""

    credit: str
    about: str = ""
    licences: Mapping[str, str] | None = None
    weights: Mapping[str, str] | None = None
    """URLs of weights, by the first digits of a record."""
    key: Path | None = None
    """ssh key that signs the records."""


def stage(
    source: Path, target: Path, who: Contributor, published: Sequence[ResultSet], today: date
) -> Iterator[str]:
    """Copy the records that are new and have numbers to a folder, and write its about.toml. Yield
    what is left out.

    Records are copied byte by byte. Of one that diverged the traceback is left out, because it has
    paths of the machine. Raise UserError if none is new, or a published measurement has another
    number here.
    """
    checked = check_folder(source)
    if checked.problems:
        raise UserError(f"{checked.problems[0]}: bench check {source} lists all of them")
    known, read = index(published), ReadOnlyStore(source)
    done = [record for record in checked.records if record.status in DONE]
    finished = newest(done)
    new = [record for record in finished if record.identity.key() not in known]
    for record in finished:
        folder, theirs = known.get(record.identity.key(), ("", record))
        wrong = next(submission_rules.differences(record, theirs), "")
        if wrong:
            raise UserError(
                f"record {record.short_key} disagrees with {folder}: {wrong}: find out why before "
                "you submit"
            )
    if not new:
        raise UserError(
            f"{source} has no new record with a number: {amount(len(finished), 'record')} are "
            "published already"
        )
    published_in = Counter(
        known[key][0] for record in finished if (key := record.identity.key()) in known
    )
    store = Store(target)
    for record in new:
        if record.traceback:  # such a record has no items
            store.write(record.model_copy(update={"traceback": ""}))
        else:
            store.copy(record, read)
    _write_about(target, who, licences.of_records(new, who.licences or {}), today)
    if who.key:
        signatures.sign(target, check_folder(target).records, who.key)
    shutil.rmtree(target / "locks")
    for count, why in (
        (len(checked.records) - len(done), "without numbers left out"),
        (len(done) - len(finished), "that a newer one replaces left out"),
        *((n, f"that are already in {name} left out") for name, n in sorted(published_in.items())),
        (sum(bool(record.traceback) for record in new), "submitted without their traceback"),
    ):
        if count:
            yield f"{amount(count, 'record')} {why}"


def _write_about(folder: Path, who: Contributor, named: Mapping[str, str], today: date) -> None:
    fields = {"kind": "results", "about": who.about, "credit": who.credit, "submitted": today}
    tables = {"licences": dict(named), "weights": dict(who.weights or {})}
    given = {name: value for name, value in (fields | tables).items() if value}
    (folder / ABOUT_FILE).write_text(tomlkit.dumps(given), encoding="utf-8")


def default_name(source: Path, credit: str) -> str:
    """Return a name by the rule, from the first record: MODEL-MACHINE-WHO."""
    record = next(ReadOnlyStore(source).listed(), None)
    if record is None:
        raise UserError(f"{source} has no records: run bench run first")
    machine = re.sub(r"\(R\)|Processor|NVIDIA", "", record.processor)
    texts = ((record.identity.model, None), (machine, 24), (credit, 20))
    parts = [submission_rules.slug(text)[:most].strip("-.") for text, most in texts]
    return "-".join(filter(None, parts))


def pack(folder: Path, name: str, out: Path) -> Path:
    """Write the archive of a folder: `out`/NAME.zip with all files below NAME/."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = [(f"{name}/{path.relative_to(folder).as_posix()}", path.read_bytes()) for path in paths]
    archive = out / f"{name}.zip"
    archives.write(archive, files, stored=[one for one, _ in files if one.endswith(COMPRESSED)])
    return archive


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[Path, str]]:
    """Yield the folder of a submission and its name. An archive is checked, and unpacked to a
    temporary folder."""
    if path.is_dir():
        yield path, path.resolve().name
        return
    if not path.is_file():
        raise UserError(
            f"{str(path)!r} does not exist: name a folder, or an archive that bench submit wrote"
        )
    try:
        files = archives.read(path, MAX_BYTES)
    except archives.FAULTS as fault:
        raise UserError(
            f"cannot read submission {str(path)!r} ({first_line(fault)[:120]}): make it again with "
            "bench submit"
        ) from None
    name = path.name.removesuffix(".zip")
    for one in files:
        folder, _, inner = one.partition("/")
        is_named = folder == name and submission_rules.NAME.fullmatch(name)
        if not is_named or not submission_rules.FILE.fullmatch(inner):
            raise UserError(
                f"submission {str(path)!r} has {one[:100]!r}, no file of a submission {name!r}: "
                "make it again with bench submit"
            )
    with temporary_folder("submission-") as place:
        for one, content in files.items():
            file = place / one
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        try:
            yield place / name, name
        except UserError as fault:
            # The copy is deleted before anyone can look into it.
            raise UserError(str(fault).replace(str(place / name), str(path))) from None
