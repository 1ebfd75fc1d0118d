"""Several machines on one training. Each runs the same command; the first does all the work but the trainings, for which the
others lend processes.

torchrun or srun starts the command and says who is who. The first node announces each training in a store that it holds
open, or torchrun's agent does; nothing else goes between nodes but what torch.distributed sends.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, MutableMapping
from datetime import timedelta
from typing import Any, NamedTuple

from methods.errors import UserError

STORE_ENV = "CAST_BENCH_STORE"
"""HOST:PORT of the store, for the workers of the first node."""
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""By which torchrun says who is who. Libraries read them, too, and would take a worker for a part of something larger."""
END = b"end"
WAIT = timedelta(minutes=10)
"""For the first node to begin."""
LOOK_S = 0.2


class Place(NamedTuple):
    """This process among the nodes."""

    node: int
    local: int
    """The place among the nodes on the same machine, where there are several."""
    host: str
    port: int
    holds_store: bool
    """Whether this process, being the first, must hold the store open: torchrun's agent does it itself."""


class Announcement(NamedTuple):
    """A training, as the first node announces it."""

    number: int
    store: Any

    def failure(self) -> str:
        """What another node says of its processes that ended too early; "" for nothing."""
        key = f"failed {self.number}"
        return self.store.get(key).decode() if self.store.check([key]) else ""


def find_place(count: int, variables: Mapping[str, str]) -> Place:
    """Who this process is, by torchrun's variables or Slurm's.

    Raises:
        UserError: nobody said it, or there are not `count` nodes.
    """
    by_slurm = "RANK" not in variables
    node, world = (variables.get(n, "") for n in (("SLURM_PROCID", "SLURM_NTASKS") if by_slurm else VARIABLES[:2]))
    host, port = variables.get("MASTER_ADDR", ""), variables.get("MASTER_PORT", "")
    if not (node.isdecimal() and world.isdecimal() and port.isdecimal() and host):
        raise UserError(
            f"training.nodes={count} needs this command on each of {count} nodes, started by torchrun --nnodes {count} "
            "--nproc-per-node 1, or by srun with MASTER_ADDR and MASTER_PORT set: see docs/scale.md"
        )
    if int(world) != count:
        raise UserError(f"training.nodes={count}, and {world} nodes were started: give both the same number")
    local = variables.get("SLURM_LOCALID" if by_slurm else "LOCAL_RANK", "0")
    agent = variables.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return Place(int(node), int(local or 0), host, int(port), holds_store=int(node) == 0 and not agent)


@contextlib.contextmanager
def lead(place: Place, variables: MutableMapping[str, str]) -> Iterator[None]:
    """Within it, trainings of this process's workers are announced to the other nodes; after it, those end."""
    store = _open(place.host, place.port, holds=place.holds_store)
    for name in VARIABLES:
        variables.pop(name, None)
    variables[STORE_ENV] = f"{place.host}:{place.port}"
    try:
        yield
    finally:
        store.set(f"task {store.add('tasks', 1)}", END)
        if place.holds_store:
            time.sleep(10 * LOOK_S)  # until the others have read it


def require_lead(count: int, variables: Mapping[str, str]) -> None:
    """
    Raises:
        UserError: there should be several nodes, and nobody leads them.
    """
    if count > 1 and STORE_ENV not in variables:
        raise UserError(f"training.nodes={count} is for bench run: leave it out here")


def first_host() -> str:
    """The first node, as the others reach it."""
    return os.environ[STORE_ENV].rpartition(":")[0]


def announce(text: str) -> Announcement:
    """Have the other nodes take part in a training. text: what their processes are told (bench.execution.ranks.NodeTask)."""
    host, _, port = os.environ[STORE_ENV].rpartition(":")
    store = _open(host, int(port))
    number = store.add("tasks", 1)
    store.set(f"task {number}", text)
    return Announcement(number, store)


def follow(place: Place) -> Iterator[tuple[Announcement, str]]:
    """Each training that the first node announces, until it ends.

    Raises:
        ConnectionError: the first node is gone.
    """
    store = _open(place.host, place.port)
    number = 1
    while True:
        while not _check(store, f"task {number}"):
            time.sleep(LOOK_S)
        text = store.get(f"task {number}")
        if text == END:
            return
        yield Announcement(number, store), text.decode()
        number += 1


def report_failure(announcement: Announcement, problem: str) -> None:
    """Tell the first node that a process ended too early. It may be gone itself."""
    with contextlib.suppress(RuntimeError):
        announcement.store.set(f"failed {announcement.number}", problem)


def _open(host: str, port: int, *, holds: bool = False) -> Any:
    import torch.distributed as dist

    store = dist.TCPStore(host, port, None, is_master=holds, timeout=WAIT, wait_for_workers=False)  # type: ignore[attr-defined]
    return dist.PrefixStore("cast-bench", store)  # type: ignore[attr-defined]


def _check(store: Any, key: str) -> bool:
    try:
        return bool(store.check([key]))
    except RuntimeError as fault:  # torch's errors of the network
        raise ConnectionError(f"the first node is gone ({fault})") from None


def describe(place: Place, count: int, processes: int) -> str:
    """What a node that is not the first does."""
    return f"node {place.node + 1} of {count} lends {processes // count} processes to {place.host}:{place.port}"
