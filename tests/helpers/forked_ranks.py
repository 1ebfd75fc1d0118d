"""Programs of several ranks, in processes that are forked from one with all imports, since imports cost more than what they do."""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing import start_processes


class Server:
    """A process that forks others. It is forked before any test runs, so that it has no threads."""

    def __init__(self) -> None:
        self._socket, other = socket.socketpair()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                self._socket.close()
                _serve(other)
            finally:
                os._exit(0)
        other.close()

    def run(self, name: str, arguments: tuple[str, ...]) -> str:
        """Run the main function of a module. Return the traceback of a fault, or ""."""
        with self._socket.makefile("rw") as pipe:
            print(json.dumps([name, arguments]), file=pipe, flush=True)
            answer = pipe.readline()
        assert answer, "the server has ended"
        return json.loads(answer)

    def close(self) -> None:
        """End the process."""
        self._socket.close()
        os.waitpid(self._pid, 0)


server: Server | None = None


def launch(program: ModuleType, *arguments: object) -> None:
    """Call `main(*arguments)` of a module of this folder, which calls `run_ranks`, in a separate process."""
    assert server, "no server was started before the tests"
    fault = server.run(program.__name__, tuple(map(str, arguments)))
    assert not fault, fault[-3000:]


def _serve(requests: socket.socket) -> None:
    with requests.makefile("rw") as pipe:
        for line in pipe:
            name, arguments = json.loads(line)
            fault = ""
            try:
                sys.modules[name].main(*arguments)
            except Exception:  # noqa: BLE001 (its traceback is the answer)
                fault = traceback.format_exc()
            print(json.dumps(fault), file=pipe, flush=True)


def run_ranks(world: int, main: Callable[..., None], *arguments: Any) -> None:
    """Call main(*arguments) in `world` processes, one group. All end where one fails, and what it raised is raised."""
    with tempfile.TemporaryDirectory() as folder:
        start_processes(_join, (world, folder, main, arguments), nprocs=world, start_method="fork")


def _join(rank: int, world: int, folder: str, main: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    main(*arguments)
    dist.destroy_process_group()
