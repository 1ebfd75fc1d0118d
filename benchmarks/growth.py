"""CPU time and memory of `bench report`, `check` and `ls` as results grow.

The records are synthetic, four for each row, as in report.py. Each command runs in a process of
its own, which is stopped after a limit of CPU time: first with an empty cache, then again, when
this machine remembers what it computed. `--before` measures another checkout of the project in turn
with this one.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

from harness import ROOT, Figures, finish, recorded, say, start
from report import RECORDS_OF_ROW, fill

ROWS = (200, 500, 1000, 2000)
RECORDS = (2000, 5000, 10_000, 20_000)


def measure(tree: Path, limit: int, cache: Path, *words: object) -> Figures:
    """Run a command of `bench`. Return its CPU time and its largest memory.

    limit: CPU seconds after which it is stopped. cache: folder of the cache.
    """

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))

    command = [sys.executable, "-m", "bench", *map(str, words)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CAST_BENCH_CACHE": str(cache)}
    started = subprocess.Popen(
        command, cwd=tree, env=environment, stdout=subprocess.DEVNULL, preexec_fn=bound
    )
    _, status, usage = os.wait4(started.pid, 0)
    started.returncode = os.waitstatus_to_exitcode(status)
    if started.returncode < 0:
        return {"seconds of CPU": f"more than {limit}"}
    if started.returncode:
        sys.exit(f"{' '.join(command)} ended with {started.returncode}")
    used = usage.ru_utime + usage.ru_stime
    return {"seconds of CPU": round(used, 2), "peak MB": round(usage.ru_maxrss * 1024 / 1e6)}


def table(figures: Figures) -> str:
    """Return the figures of one tree as lines: command, size, CPU time, memory."""
    lines = []
    for name, found in figures.items():
        cells = [name, str(found["seconds of CPU"]), str(found.get("peak MB", ""))]
        lines.append("".join(cell.rjust(24) for cell in cells))
    return "\n".join(lines)


def main(
    before: Path | None = None,
    limit: int = 60,
    rows: str = ",".join(map(str, ROWS)),
    records: str = ",".join(map(str, RECORDS)),
) -> None:
    trees = {"before": before, "after": ROOT} if before else {"after": ROOT}
    every: Figures = {name: {} for name in trees}
    sizes = {int(count) // RECORDS_OF_ROW for count in records.split(",")}
    of_report = {int(count) for count in rows.split(",")}
    filled = 0
    with tempfile.TemporaryDirectory() as room:
        root, page = Path(room) / "made", Path(room) / "page"
        for count in sorted(sizes | of_report):
            with mock.patch("os.fsync"):  # these records need not outlive a crash
                fill(root, count, filled)
            filled = count
            commands: dict[str, tuple[object, ...]] = {}
            if count in of_report:
                commands[f"report {count:,} rows"] = ("report", "--results", root, "--out", page)
            if count in sizes:
                records_now = f"{RECORDS_OF_ROW * count:,} records"
                commands[f"check {records_now}"] = ("check", root)
                commands[f"ls {records_now}"] = ("ls", "runs", "--results", root)
            for what, words in commands.items():
                for name, tree in trees.items():
                    cache = Path(room) / f"cache {name} {what}"
                    for state in (what, f"{what}, again"):
                        every[name][state] = measure(tree, limit, cache, *words)
                        say(name, table({state: every[name][state]}))
    for name, found in every.items():
        print(name, table(found), sep="\n")
    finish("growth", recorded("growth") | every)


if __name__ == "__main__":
    start(main)
