"""How many artifacts are made at a time, and how many threads each has."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from bench.planning.artifact import Artifact
from bench.planning.memory import estimate_bytes
from bench.planning.spec import Spec
from bench.system.devices import cores, memory_bytes

AUTO = "auto"
SHARE = 0.8
"""Of the machine's memory, that artifacts may take together."""


def count(spec: Spec, devices: Sequence[str]) -> int:
    """What the spec says, before its plan is known: for "auto", one."""
    if spec.jobs == AUTO:
        return 1
    return len(devices) if spec.jobs is None else int(spec.jobs)


def count_by_memory(spec: Spec, devices: Sequence[str], artifacts: Collection[Artifact]) -> int:
    """For "auto": as many as fit in the machine's memory if each were the largest, at most one a core or one a card.

    It goes by shapes and by what the machine has, not by what is free or what records say: the number of threads follows
    from it, and with that every key.
    """
    most = len(devices) if devices[0] != "cpu" else max(1, cores() // (spec.threads or 1))
    largest = max((estimate_bytes(artifact) for artifact in artifacts), default=1.0)
    return max(1, min(most, int(SHARE * memory_bytes() / largest)))
