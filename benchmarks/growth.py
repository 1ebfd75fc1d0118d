"""CPU time and memory of `bench report`, `check` and `ls` as results grow.

The records are synthetic, four for each row, as in report.py. Each command runs in a process of
its own, which is stopped after a limit of CPU time: first with an empty cache (cold), then again,
when this machine remembers what it computed (warm). A command that reached the limit is not run
with more records. `--tree` measures another checkout of the project, under the `--name` of its
commit.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import ROOT, Figures, finish, recorded, say, start
from report import RECORDS_OF_ROW

ROWS = (200, 500, 1000, 2000)
RECORDS = (2000, 5000, 10_000, 20_000)
FILL = """
import functools, pathlib, sys
from unittest import mock
import report
sys.path.insert(0, str(report.ROOT / "tests"))
from helpers import fake_records
one_store = functools.cache(fake_records.Store)  # a new one looks through the whole folder
# These records need not outlive a crash.
with mock.patch.object(fake_records, "Store", one_store), mock.patch("os.fsync"):
    report.fill(pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
"""


def fill(tree: Path, root: Path, rows: int, first: int) -> None:
    """Write records of rows `first` to `rows`, as the tree's own report.py makes them."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(tree), str(tree / "benchmarks")])
    }
    command = [sys.executable, "-c", FILL, str(root), str(rows), str(first)]
    subprocess.run(command, cwd=tree, env=environment, check=True)


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
    """Return figures as lines: command and size, CPU time, memory."""
    lines = []
    for name, found in figures.items():
        cells = [name, str(found["seconds of CPU"]), str(found.get("peak MB", ""))]
        lines.append("".join(cell.rjust(32) for cell in cells))
    return "\n".join(lines)


def main(
    tree: Path = ROOT,
    name: str = "now",
    limit: int = 60,
    rows: str = ",".join(map(str, ROWS)),
    records: str = ",".join(map(str, RECORDS)),
) -> None:
    found: Figures = {}
    ended: set[str] = set()
    of_report = {int(count) for count in rows.split(",")}
    of_check = {int(count) // RECORDS_OF_ROW for count in records.split(",")}
    with tempfile.TemporaryDirectory() as room:
        root, page = Path(room) / "made", Path(room) / "page"
        made = 0
        for count in sorted(of_check | of_report):
            fill(tree, root, count, made)
            made = count
            commands: dict[str, tuple[object, ...]] = {}
            if count in of_report:
                commands[f"report {count:,} rows"] = ("report", "--results", root, "--out", page)
            if count in of_check:
                size = f"{RECORDS_OF_ROW * count:,} records"
                commands[f"check {size}"] = ("check", root)
                commands[f"ls {size}"] = ("ls", "runs", "--results", root)
            for what, words in commands.items():
                for state in ("cold", "warm"):
                    kind = f"{words[0]} {state}"
                    if kind in ended:  # more records take longer
                        found[f"{what}, {state}"] = {"seconds of CPU": f"more than {limit}"}
                        continue
                    used = measure(tree, limit, Path(room) / f"cache {what}", *words)
                    found[f"{what}, {state}"] = used
                    say(table({f"{what}, {state}": used}))
                    if "peak MB" not in used:
                        ended |= {f"{words[0]} cold", f"{words[0]} warm"}
    print(name, table(found), sep="\n")
    finish("growth", recorded("growth") | {name: found})


if __name__ == "__main__":
    start(main)
