"""Programs of several ranks, in processes forked from one with all imports."""

import contextlib
import sys
import tempfile
import traceback
from multiprocessing import get_context

import torch
import torch.distributed as dist
from torch.multiprocessing import start_processes

FORK = get_context("fork")
_servers = []
"""The process that others are forked from, with the pipe to it."""


def start():
    """Start the server before any test runs, so that it has no threads."""
    own, other = FORK.Pipe()
    process = FORK.Process(target=_serve, args=(own, other))
    process.start()
    other.close()
    _servers.append((process, own))


def stop():
    for process, pipe in _servers:
        pipe.close()
        process.join()


def launch(program, *arguments):
    """Call `main(*arguments)` of a module of this folder in a separate process."""
    ((_, pipe),) = _servers
    pipe.send((program.__name__, *map(str, arguments)))
    fault = pipe.recv()
    assert not fault, fault[-3000:]


def _serve(clients, requests):
    clients.close()
    with contextlib.suppress(EOFError):
        while True:
            name, *arguments = requests.recv()
            fault = ""
            try:
                sys.modules[name].main(*arguments)
            except Exception:  # noqa: BLE001 (its traceback is the answer)
                fault = traceback.format_exc()
            requests.send(fault)


def run_ranks(world, main, *arguments):
    """Call main(*arguments) in `world` processes, one group. All end where one fails."""
    with tempfile.TemporaryDirectory() as folder:
        start_processes(_join, (world, folder, main, arguments), nprocs=world, start_method="fork")


def _join(rank, world, folder, main, arguments):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world
    )
    main(*arguments)
    dist.destroy_process_group()
