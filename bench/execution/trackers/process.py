"""The process of one tracker. It reads orders as JSON lines, and prints why it gave up."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from typing import Any

from bench.execution.trackers.contract import Tracker
from bench.execution.trackers.table import make


def tell(tracker: Tracker, lines: Iterable[str]) -> None:
    """Call the tracker for each line: {"do": METHOD, and its arguments}."""
    at_work: set[str] = set()
    for line in lines:
        order: dict[str, Any] = json.loads(line)
        action = order.pop("do")
        getattr(tracker, action)(**order)
        (at_work.discard if action == "end" else at_work.add)(order["artifact"])
    for artifact in at_work:  # the run was killed
        tracker.end(artifact=artifact, ok=False)
    tracker.close()


def main() -> None:
    with os.fdopen(os.dup(1), "w") as answer:
        os.dup2(2, 1)  # libraries print to standard output
        try:
            tell(make(sys.argv[1]), sys.stdin)
        except Exception as fault:  # noqa: BLE001 (a library may raise anything)
            reason = " ".join(f"{type(fault).__name__}: {fault}".split())
            answer.write((reason if len(reason) <= 300 else f"{reason[:150]} ... {reason[-150:]}") + "\n")
            answer.flush()
            os._exit(1)  # its threads may wait for a server


if __name__ == "__main__":
    main()
