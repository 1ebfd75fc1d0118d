"""Error of the fitted cost model of bench plan for artifacts that it was not fitted to.

Each artifact of a folder of records is left out once, and its time is estimated from the other
artifacts of the folder that were measured on the same processor, in the same number format and with
as many threads.

By default the sweeps of tiny and SmolLM2, and the main board. It also prints what was missed.

python benchmarks/cost_model.py [--folders A,B]
"""

from __future__ import annotations

import sys
from pathlib import Path

from harness import ROOT, Figures, finish, say, start

from bench.parts.forecasts.cost_model import WITHIN, CostModel
from bench.parts.forecasts.past_costs import read_past
from bench.system.grouping import group_by

NAMES = ("tiny-default", "tiny-methods", "smollm2", "main")
FOLDERS = ",".join(str(ROOT / "results" / name) for name in NAMES)


def main(folders: str = FOLDERS) -> None:
    figures: Figures = {}
    for folder in map(Path, folders.split(",")):
        if not (folder / "records").is_dir():
            sys.exit(f"{folder} is no results folder: name folders with records")
        groups = group_by(read_past(folder, beside=False), lambda past: past.machine)
        for machine, costs in sorted(groups.items()):
            model = CostModel(costs)
            error = model.error()
            if error is None:
                continue
            cpu, family, *_, dtype, threads = machine
            name = f"{folder.name}, {cpu} {family}, {dtype}, threads: {threads}".replace("_", "-")
            figures[name] = {
                "artifacts": error.artifacts,
                f"percent within a factor of {WITHIN:g}": round(100 * error.share, 1),
                "median factor off": round(error.median, 3),
            }
            say(name)
            for cost, factor in sorted(model.leave_one_out(), key=lambda pair: pair[1]):
                if not 1 / WITHIN <= factor <= WITHIN:
                    kind, took = cost.parts[0].kinds[0], f"{cost.seconds:.0f} s"
                    say(f"    missed: {kind}, {took}, estimated {factor:.2f} of it")
    finish("cost_model", figures)


if __name__ == "__main__":
    start(main)
