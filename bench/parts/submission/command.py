"""`bench submit`: contribute results to a leaderboard."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.console import fail, note, print_line, print_lines, write_output
from bench.cli.flags import checked, file_option, folder_option
from bench.system.text import amount
from methods.contract.errors import UserError

if TYPE_CHECKING:
    from bench.parts.submission.review import Review
    from bench.parts.submission.submission_folder import Contributor


def _require_published(folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(
            f"--published {str(folder)!r} is no folder: name the one with all published results "
            "folders"
        )


def submit(
    results: Annotated[
        Path | None,
        typer.Argument(
            help="Results folder; with --check a submission: its folder or archive [default: "
            "results/local]."
        ),
    ] = None,
    credit: Annotated[
        str | None, typer.Option(help="Who contributes it: your name, or that of your group.")
    ] = None,
    about: Annotated[
        str | None, typer.Option(help="One sentence on what was measured, and why.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the new folder [default: MODEL-MACHINE-WHO, from the records]."),
    ] = None,
    licence: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=LICENCE",
            help="Licence of a model or data set that is not known; can be repeated.",
        ),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RECORD=URL",
            help="URL of the weights of a record's row, by https; can be repeated.",
        ),
    ] = None,
    key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also sign the records with this ssh key.")
    ] = None,
    published: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of all published results folders [default: results].",
            callback=checked(_require_published),
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Review a submission instead of making one. Writes only the file of --md.",
        ),
    ] = False,
    md: Annotated[
        Path | None,
        file_option("--md", "With --check: write the text of the review here.", stdout=True),
    ] = None,
    out: Annotated[
        Path | None,
        folder_option(
            "--out", "Folder to write the archive and the text to [default: submissions]."
        ),
    ] = None,
) -> None:
    """Check results, and pack them for a pull request.

    Every number is computed again, and compared with what is published. NAME.zip has the records;
    NAME.md is the text of the pull request. --check reviews a submission by the same rules. The
    exit code is 1 if it is refused.
    """
    from bench.parts.submission.review import read_published, review
    from bench.results.store import RESULTS

    source, root = results or RESULTS, published or RESULTS.parent
    if check:
        if not root.is_dir():
            raise UserError(
                f"no folder {str(root)!r} to compare with: run it in a checkout, or name one with "
                "--published"
            )
        given = [
            o
            for o, v in (
                ("--credit", credit),
                ("--about", about),
                ("--name", name),
                ("--licence", licence),
                ("--weights", weights),
                ("--key", key),
                ("--out", out),
            )
            if v
        ]
        if given:
            raise UserError(f"{given[0]} is for a new submission: leave it out with --check")
        from bench.parts.submission.submission_folder import opened

        with opened(source) as (folder, named):
            found = review(folder, read_published(root, without=named), named)
            if folder != source:
                found = found.at(Path(named))
            _print(found, named, md)
        return
    if md:
        raise UserError("--md is for --check: a new submission writes NAME.md beside its archive")
    if not credit:
        raise UserError("bench submit needs --credit: your name, or that of your group")
    from bench.parts.submission.submission_folder import Contributor
    from bench.reporting import searches

    licences = _pairs("--licence", licence or (), "NAME=LICENCE, for example my-org/model=MIT")
    urls = _pairs(
        "--weights", weights or (), "RECORD=URL, the first digits of a record's key first"
    )
    if not searches.are_weights(urls):
        raise UserError(
            f"invalid --weights {' '.join(weights or ())!r}: give 8 or more digits of a record's "
            "key, and an https URL without a query, as RECORD=https://host/path"
        )
    who = Contributor(credit, about or "", licences, urls, key)
    _make(source, root, who, name, out or Path("submissions"))


def _make(source: Path, root: Path, who: Contributor, name: str | None, out: Path) -> None:
    from bench.parts.submission import message, submission_folder
    from bench.parts.submission.review import read_published, review
    from bench.system.cache import temporary_folder

    name = name or submission_folder.default_name(source, who.credit)
    own = source.resolve()
    without = own.name if own.parent == root.resolve() else ""
    results = read_published(root, without=without)
    with temporary_folder("submission-") as place:
        target = place / "folder"
        for line in submission_folder.stage(source, target, who, results, datetime.now(UTC).date()):
            note(line)
        found = review(target, results, name)
        if found.refusals:
            _print(found.at(source), name, None)
        out.mkdir(parents=True, exist_ok=True)
        archive, text = submission_folder.pack(target, name, out), out / f"{name}.md"
        write_output(text, message.text(found, name))
    print_line(f"{archive}: {amount(len(found.records), 'record')}")
    print_line(f"{text}: the text of the pull request")
    print_line(
        f"next: unzip {shlex.quote(str(archive))} -d results in your fork, commit results/{name}, "
        "open a pull request"
    )


def _pairs(option: str, given: Sequence[str], form: str) -> dict[str, str]:
    """Return NAME=VALUE of an option that can be repeated. form: what a pair looks like."""
    out = {}
    for one in given:
        name, _, value = one.partition("=")
        if not name.strip() or not value.strip():
            raise UserError(f"invalid {option} {one!r}: give {form}")
        out[name.strip()] = value.strip()
    return out


def _print(found: Review, name: str, md: Path | None) -> None:
    """Print a review. A refused one ends with exit code 1."""
    from bench.parts.submission import message

    text = message.refusal(found, name) if found.refusals else message.text(found, name)
    if md and str(md) != "-":
        write_output(md, text)
    if found.refusals:
        for sentence in found.refusals:
            print_line(f"refused: {sentence}")
        fail(
            f"{name} is refused for {amount(len(found.refusals), 'reason')} above: correct it, "
            "and submit it again",
            1,
        )
    print_lines(text)
    note(f"{name} is accepted: {amount(len(found.records), 'record')}")
