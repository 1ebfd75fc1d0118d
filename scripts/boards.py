"""The boards of results/boards.toml: what they are, what making them takes, and making them.

python scripts/boards.py                       hours of each board: to make, estimated, and taken
python scripts/boards.py run [NAME ...]        make what is missing, in the order of the file
       --shard K/N --data-dir MIRROR           part K of N of each spec; a mirror of hub data
python scripts/boards.py --check               each spec plans, and each named page has its tables

A run resumes. Give all machines of one board the same kind of processor: a table says which of its
rows differ. `tox -e results` makes all boards.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from declared import RESULTS, Board, read

from bench.planning.artifact import Plan
from bench.results.identity import Protocol
from bench.results.store import ReadOnlyStore

ROOT = RESULTS.parent


def runs(board: Board) -> Iterator[tuple[Path, list[str]]]:
    """Yield each spec of a board with the settings that it is run with: its own, then each text."""
    for file in board.spec_files():
        yield file, []
        for text in board.texts:
            yield file, [f"perplexity.data={text}"]


def plans(board: Board, mirror: Path | None) -> Iterator[Plan]:
    """Yield the plan of each run of a board."""
    from bench.cli.flags import spec_of
    from bench.planning.plan import make_plan

    for file, settings in runs(board):
        flags = {"config": file, "results": board.folder, "data_dir": mirror, "set_": settings}
        yield make_plan(spec_of({name: given for name, given in flags.items() if given}))


def hours(board: Board, mirror: Path | None) -> tuple[float, int]:
    """Estimate the hours on this machine of what a board lacks, and its number of rows."""
    from bench.parts.forecasts.plan_costs import estimate_columns, fit_model

    seconds, rows = 0.0, 0
    for plan in plans(board, mirror):
        columns = estimate_columns(plan, fit_model(plan))
        seconds += sum(row["about_s"] for row in columns)
        rows += len(columns)
    return seconds / 3600, rows


def taken(board: Board) -> dict[str, float]:
    """Return the core hours of a board's records by kind of processor, most first."""
    from bench.parts.forecasts.past_costs import read_past

    spent: dict[str, float] = {}
    if board.measured:
        for past in read_past(board.folder, beside=False):
            kind = " ".join(past.machine[:2])
            spent[kind] = spent.get(kind, 0.0) + past.seconds / 3600
    return dict(sorted(spent.items(), key=lambda entry: -entry[1]))


def account(boards: Sequence[Board], mirror: Path | None) -> None:
    """Print the hours of boards."""
    total = 0.0
    for board in boards:
        spent = [f"{amount:.1f} h on {kind}" for kind, amount in taken(board).items()]
        line = f"{board.name}: taken {', '.join(spent) or 'none'}"
        if board.until:
            line += f"; not made again: {board.until} replaces it"
        elif board.specs:
            left, rows = hours(board, mirror)
            total += left
            line += f"; about {left:.1f} h left of {rows} rows"
        print(line, flush=True)
    print(f"all: about {total:.1f} h left, one row at a time, as bench plan estimates them here")


def run(boards: Sequence[Board], shard: str, mirror: Path | None) -> None:
    """Make what boards lack. Exit with the first error of a command."""
    for board, file, settings in _made(boards):
        command = [sys.executable, "-m", "bench", "run", "--config", str(file)]
        command += ["--results", str(board.folder)]
        for setting in settings:
            command += ["--set", setting]
        command += ["--shard", shard] if shard else []
        command += ["--data-dir", str(mirror)] if mirror else []
        if (code := subprocess.run(command, cwd=ROOT).returncode) not in (0, 1):
            sys.exit(code)


def _made(boards: Sequence[Board]) -> Iterator[tuple[Board, Path, list[str]]]:
    for board in boards:
        if not board.until:
            for file, settings in runs(board):
                yield board, file, settings


def check() -> None:
    """Plan each spec. Exit if a folder is not declared, if no page has a declared table, or if the
    specs draw other windows than those measured."""
    declared = read()
    faults = [f"results/{p.name} is not declared" for p in RESULTS.glob("*/") if _lost(p)]
    pages = "\n".join(p.read_text() for p in (ROOT / "docs").rglob("*.md"))
    for board in declared.values():
        planned = {draw for plan in plans(board, None) for draw in _draws(_planned(plan))}
        other = _draws(_measured(board)) - planned
        if board.specs and not board.until and other:
            faults.append(f"no spec of {board.name} draws its windows {', '.join(other)}")
        for table in board.tables:
            if f"<!-- board: {table.name} -->" not in pages:
                faults.append(f"no page has the table {table.name}")
    if faults:
        sys.exit("; ".join(faults))


def _planned(plan: Plan) -> Iterator[Protocol]:
    for measurements in plan.artifacts().values():
        yield from (m.protocol for m in measurements if m.measure == "perplexity")


def _measured(board: Board) -> Iterator[Protocol]:
    if board.measured:
        for record in ReadOnlyStore(board.folder).listed():
            if record.identity.measure == "perplexity":
                yield record.identity.protocol


def _draws(protocols: Iterable[Protocol]) -> set[str]:
    """Return how protocols draw the windows of a text that they do not read whole."""
    return {protocol.draw or "from the front" for protocol in protocols if protocol.limit}


def _lost(folder: Path) -> bool:
    return folder.name not in (*read(), "local")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", metavar="[run] NAME")
    parser.add_argument("--shard", default="")
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("BENCH_DATA_DIR"))
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    if given.check:
        return check()
    makes, names = given.words[:1] == ["run"], [name for name in given.words if name != "run"]
    if unknown := set(names) - set(read()):
        sys.exit(f"no board {', '.join(sorted(unknown))}: use {', '.join(read())}")
    boards = [board for board in read().values() if board.name in (names or read())]
    account(boards, given.data_dir)
    if makes:
        run(boards, given.shard, given.data_dir)
        account(boards, given.data_dir)


if __name__ == "__main__":
    main()
