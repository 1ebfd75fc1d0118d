"""The interface of a tracker, and the process of one. It reads orders as JSON lines, and prints why
it gave up."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from bench.catalog import registry


class Tracker(Protocol):
    """Shows each artifact as one run of its program. After an exception it receives nothing more.

    A tracker of another package has these methods, and is an entry point of the group
    cast_bench.trackers.

    artifact: the key of an artifact at work.
    """

    def start(
        self, artifact: str, name: str, params: Mapping[str, str], tags: Mapping[str, str]
    ) -> None:
        """Open a run. name: the artifact's label. params: its settings. tags: its keys and
        versions."""

    def curve(self, artifact: str, phase: str, step: int, figures: Mapping[str, float]) -> None:
        """Log a point of each curve of a phase."""

    def metrics(self, artifact: str, values: Mapping[str, float]) -> None:
        """Log the values of a measurement."""

    def end(self, artifact: str, ok: bool) -> None:
        """Close a run. ok: False if its worker failed."""

    def close(self) -> None:
        """Send what is left before the process ends."""


def make(name: str) -> Tracker:
    tracker: Tracker = registry.load(registry.lookup("trackers", name))()
    return tracker


def tell(tracker: Tracker, lines: Iterable[str]) -> None:
    """Call the tracker for each line: {"do": METHOD, and its arguments}."""
    at_work: set[str] = set()
    for line in lines:
        order: dict[str, Any] = json.loads(line)
        action = order.pop("do")
        getattr(tracker, action)(**order)
        if action == "end":
            at_work.discard(order["artifact"])
        else:
            at_work.add(order["artifact"])
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
            if len(reason) > 300:
                reason = f"{reason[:150]} ... {reason[-150:]}"
            answer.write(f"{reason}\n")
            answer.flush()
            os._exit(1)  # its threads may wait for a server


if __name__ == "__main__":
    main()
