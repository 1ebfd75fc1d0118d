"""Training on several machines. Each node runs the same command. The first does all work; the
others lend processes to trainings.

torchrun or srun starts the command and numbers the nodes. The first node announces each training in
a TCP store, which it or torchrun's agent keeps open.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterator, Mapping, MutableMapping
from datetime import timedelta
from typing import Any, NamedTuple

from bench.execution.lead import STORE_ENV
from methods.contract.errors import UserError

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Variables by which torchrun numbers processes. Workers must not inherit them, because libraries
read them."""
END = b"end"
WAIT = timedelta(minutes=10)
"""Timeout for the first node to start."""
LOOK_S = 0.2


class Place(NamedTuple):
    """This process among the nodes."""

    node: int
    local: int
    """Index among the nodes on the same machine."""
    host: str
    port: int
    holds_store: bool
    """True if this process must keep the store open, which torchrun's agent otherwise does."""


class Announcement(NamedTuple):
    """A training, as the first node announces it."""

    number: int
    store: Any

    def failure(self) -> str:
        """Return the failure that another node has reported, or ""."""
        key = f"failed {self.number}"
        return self.store.get(key).decode() if self.store.check([key]) else ""


def find_place(count: int, variables: Mapping[str, str]) -> Place:
    """Read this process's place from the variables of torchrun or Slurm. Raise UserError if they do
    not give `count` nodes."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if "RANK" not in variables:
        names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
    node, world, local = (variables.get(name, "") for name in names)
    host, port = variables.get("MASTER_ADDR", ""), variables.get("MASTER_PORT", "")
    if not (node.isdecimal() and world.isdecimal() and port.isdecimal() and host):
        raise UserError(
            f"training.nodes={count} needs this command on each of {count} nodes, started by "
            f"torchrun --nnodes {count} --nproc-per-node 1, or by srun with MASTER_ADDR and "
            "MASTER_PORT set: see docs/scale.md"
        )
    if int(world) != count:
        raise UserError(
            f"training.nodes={count}, and {world} nodes were started: give both the same number"
        )
    agent = variables.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return Place(
        int(node), int(local or 0), host, int(port), holds_store=int(node) == 0 and not agent
    )


@contextlib.contextmanager
def lead(place: Place, variables: MutableMapping[str, str]) -> Iterator[None]:
    """Announce the trainings of our workers to the other nodes within the block. Afterwards those
    nodes end."""
    store = _open(place.host, place.port, holds=place.holds_store)
    for name in VARIABLES:
        variables.pop(name, None)
    variables[STORE_ENV] = f"{place.host}:{place.port}"
    try:
        yield
    finally:
        store.set(f"task {store.add('tasks', 1)}", END)
        if place.holds_store:
            time.sleep(10 * LOOK_S)  # time for the others to read it


def announce(text: str) -> Announcement:
    """Announce a training to the other nodes. text: a bench.parts.ranks.ranks.NodeTask as JSON."""
    host, _, port = os.environ[STORE_ENV].rpartition(":")
    store = _open(host, int(port))
    number = store.add("tasks", 1)
    store.set(f"task {number}", text)
    return Announcement(number, store)


def follow(place: Place) -> Iterator[tuple[Announcement, str]]:
    """Yield each training that the first node announces. Raise ConnectionError if the first node is
    gone."""
    store = _open(place.host, place.port)
    for number in itertools.count(1):
        try:
            while not store.check([f"task {number}"]):
                time.sleep(LOOK_S)
            text = store.get(f"task {number}")
        except RuntimeError as fault:  # a network error of torch
            raise ConnectionError(f"the first node is gone ({fault})") from None
        if text == END:
            return
        yield Announcement(number, store), text.decode()


def report_failure(announcement: Announcement, problem: str) -> None:
    """Report a process that ended too early to the first node, if that is still there."""
    with contextlib.suppress(RuntimeError):
        announcement.store.set(f"failed {announcement.number}", problem)


def _open(host: str, port: int, *, holds: bool = False) -> Any:
    import torch.distributed as dist

    store = dist.TCPStore(host, port, None, is_master=holds, timeout=WAIT, wait_for_workers=False)  # type: ignore[attr-defined]
    return dist.PrefixStore("cast-bench", store)  # type: ignore[attr-defined]
