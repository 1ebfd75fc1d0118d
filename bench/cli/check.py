"""`bench check`, `sign` and `merge`: what a results folder is worth. Each imports what it needs
when it runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.console import fail, note, print_line
from bench.cli.flags import Results, SignedBy
from bench.system.text import amount
from methods.contract.errors import UserError

if TYPE_CHECKING:
    from bench.results.record import Record


FAILURES = {
    "damaged": ("are damaged or were changed: delete them and run the same bench run again", 1),
    "unsigned": ("have no valid signature: have them signed with bench sign, or leave them out", 1),
    "differs": ("give other numbers when they are measured again: do not rely on them", 1),
    "not measured": (
        "cannot be measured again here: bench pull their model or data, or take another machine",
        2,
    ),
}
"""Faults of a record, the worst first: end of the sentence, and exit code."""


def merge(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR", help="Results folders to merge, for example of several machines."
        ),
    ],
    results: Results = None,
) -> None:
    """Merge results folders into the one of --results.

    Records that it has already are kept. A finished record replaces a failed one.
    """
    from bench.results.merge import merge_folders
    from bench.results.store import RESULTS

    done = merge_folders(sources, results or RESULTS)
    counts = f"{amount(done.taken, 'record')} copied, {done.known} already there"
    if done.other:
        counts += f", {done.other} not copied: here they have another number"
    print_line(counts)


def check(
    results: Annotated[
        list[Path] | None,
        typer.Argument(metavar="DIR", help="Results folders [default: results/local]."),
    ] = None,
    remeasure: Annotated[
        int | None,
        typer.Option(
            metavar="K", min=1, help="Measure K random records of each folder again, and compare."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed that chooses the records of --remeasure.")] = 0,
    tolerance: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            min=0,
            max=1,
            help="Largest difference on another machine or of other code [default: the margin of "
            "each metric].",
        ),
    ] = None,
    signed_by: SignedBy = None,
) -> None:
    """Check that records were not changed and are consistent.

    Numbers are computed again from their items. Files that belong to no record are listed. Nothing
    is changed. --remeasure runs measurements again. On the same machine, with the same code, the
    numbers must be equal. The exit code is 1 if a record is damaged, unsigned or differs, and 2 if
    a folder has no records or a measurement cannot be run here.
    """
    from bench.comparing.remeasure import choose
    from bench.results.folder_check import check_folder
    from bench.results.store import RESULTS

    if remeasure is None and (seed or tolerance is not None):
        raise UserError("--seed and --tolerance are for --remeasure: give --remeasure K, too")
    failures: set[str] = set()
    checked = [(folder, check_folder(folder)) for folder in results or [RESULTS]]
    for folder, found in checked:
        for problem in found.problems:
            print_line(f"damaged: {problem}")
        for path in found.leftovers:
            print_line(f"belongs to no record: {path}")
        print_line(
            f"{folder}: {amount(len(found.records), 'record')} read, "
            f"{amount(len(found.problems), 'problem')}, {amount(found.recomputed, 'number')} "
            "computed again"
        )
        if found.not_derived:
            names = ", ".join(f"{name} ({count})" for name, count in found.not_derived.items())
            print_line(
                f"  not computed again, because it does not follow from what is stored: {names}"
            )
        if found.problems:
            failures.add("damaged")
        if signed_by and _check_signatures(folder, found.records, signed_by):
            failures.add("unsigned")
    if remeasure:
        for _, found in checked:
            choose(found.records, remeasure, seed)  # refuses too few before the first is measured
        for _, found in checked:
            failures |= _remeasure(found.records, remeasure, seed, tolerance)
    for failure, (sentence, code) in FAILURES.items():
        if failure in failures:
            fail(f"records above {sentence}", code)
    empty = [folder for folder, found in checked if not found.records and not found.problems]
    if empty:
        raise UserError(
            f"results folder {str(empty[0])!r} has no records: name another, or run bench run first"
        )


def _check_signatures(folder: Path, records: Sequence[Record], allowed: Path) -> bool:
    """Print who signed the records. Return whether one is unsigned."""
    from bench.results import signatures

    signers = signatures.verify(folder, allowed)
    for problem in signers.problems:
        note(problem)
    for name, count in signatures.counts(records, signers):
        by = f"signed by {name}" if name else "unsigned"
        print_line(f"  {amount(count, 'record')} {by}")
    unsigned = [record for record in records if not signers.of(record)]
    for record in unsigned:
        print_line(f"unsigned: {folder / 'records' / record.stem}.json")
    return bool(unsigned)


def _remeasure(
    records: Sequence[Record], count: int, seed: int, tolerance: float | None
) -> set[str]:
    """Measure random records again, print a line for each, and return which verdicts there were."""
    from bench.comparing import remeasure
    from bench.execution.runner import measure_again
    from bench.system.cache import temporary_folder

    chosen = remeasure.choose(records, count, seed)
    print_line(f"  measuring {amount(count, 'record')} again, chosen by seed {seed}")
    verdicts = set()
    with temporary_folder("again-") as workdir:
        for one in remeasure.remeasure(chosen, tolerance, measure_again, workdir):
            labels = one.record.identity.labels()
            row = " ".join(
                str(labels[name]) for name in ("model", "method", "pattern", "measure", "protocol")
            )
            why = f": {one.reason}" if one.reason else ""
            print_line(f"  {one.record.short_key} {row}: {one.verdict}{why}")
            verdicts.add(one.verdict)
    return verdicts


def sign(
    key: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="Your private ssh key, or a public one of your ssh agent."
        ),
    ],
    results: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="Results folder [default: results/local].")
    ] = None,
) -> None:
    """Sign the records of a results folder with an ssh key.

    The folder is checked first. ssh-keygen signs a list of the records' digests, as git signs a
    commit. To verify it, put your line into a file of allowed signers, and run bench check
    --signed-by FILE.
    """
    from bench.results import signatures
    from bench.results.folder_check import check_folder
    from bench.results.store import RESULTS

    folder = results or RESULTS
    found = check_folder(folder)
    if found.problems:
        raise UserError(
            f"{found.problems[0]}: delete damaged records before you sign (bench check {folder} "
            "lists them)"
        )
    path = signatures.sign(folder, found.records, key)
    print_line(f"{path}: {amount(len(found.records), 'record')} signed")
