"""How near the fitted cost model of bench plan comes to artifacts that it was not fitted to.

python benchmarks/cost_model.py results/tiny-default results/smollm2-135m-wanda7
python benchmarks/cost_model.py results/*/

Each artifact of a folder is left out once, and its time is estimated from the other artifacts of the folder that were measured on the
same processor, in the same number format and with as many threads. Writes results/benchmarks/cost_model.json unless --dry.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

from bench.plan.cost_model import WITHIN, CostModel
from bench.plan.past_costs import PastCost, read_past
from bench.system.files import atomic_write

OUT = Path("results/benchmarks/cost_model.json")


def main() -> None:
    folders = [Path(word) for word in sys.argv[1:] if not word.startswith("--")]
    rows = []
    for folder in folders:
        groups: dict[tuple[str, ...], list[PastCost]] = defaultdict(list)
        for past in read_past(folder, beside=False):
            groups[past.machine].append(past)
        for machine, costs in sorted(groups.items()):
            model = CostModel(costs)
            if (error := model.error()) is None:
                continue
            off = sorted((factor, cost.parts[0].kinds[0], round(cost.seconds)) for cost, factor in model.leave_one_out())
            missed = [row for row in off if not 1 / WITHIN <= row[0] <= WITHIN]
            rows.append(
                {"folder": str(folder), "machine": machine, "artifacts": error.artifacts}
                | {"within_1.5": round(error.share, 3), "median_factor": round(error.median, 3)}
                | {"missed": [{"kind": kind, "took_s": took, "estimate": round(f, 2)} for f, kind, took in missed]}
            )
            print(f"{folder}: {' '.join(filter(None, machine))}: {error.share:.0%} of {error.artifacts} within {WITHIN}")
            for factor, kind, took in missed:
                print(f"    {kind}: took {took} s, estimated {factor:.2f} of it")
    if "--dry" not in sys.argv:
        with atomic_write(OUT) as temporary:
            temporary.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
