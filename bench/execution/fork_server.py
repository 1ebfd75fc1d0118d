"""A process that has imported what workers need, and forks one for each artifact that
bench.execution.processes asks for.

It imports and parses, and does nothing else, so that a fork is safe: no thread, no CUDA context, no
random numbers drawn. Each request on its socket carries the worker's stdin, stdout and stderr. It
answers with the worker's process id, and with the exit code once the worker has ended. It ends with
the runner, also while it imports.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import selectors
import socket
import sys
from pathlib import Path
from typing import Any

from bench.execution import signals
from bench.execution.descendants import end_with_parent
from bench.system.interpreter import OWN_PACKAGES
from bench.system.source_digest import digest_source

TASKS = Path("/proc/self/task")
"""Folder with an entry for each thread, including those of libraries."""


def main() -> None:
    """Import modules and fork workers. Arguments: the socket's file descriptor, then the
    modules."""
    control = socket.socket(fileno=int(sys.argv[1]))
    signals.ignore()
    end_with_parent()
    gc.disable()  # what an import makes stays
    try:
        for name in sys.argv[2:]:
            importlib.import_module(name)
        # Each worker compares the code with that of the plan, and parses only what has changed.
        digest_source(*[name for name in sys.argv[2:] if name.partition(".")[0] in OWN_PACKAGES])
        problem = find_problem()
    except Exception as fault:  # noqa: BLE001 (a worker fails in the same way, and its log has the traceback)
        problem = f"{type(fault).__name__}: {fault}"
    try:
        _send(control, ready=not problem, problem=problem)
        is_worker = not problem and serve(control)
    except (BrokenPipeError, ConnectionResetError):  # the runner is gone
        return
    if is_worker:
        from bench.execution.worker import main as work

        work()


def find_problem() -> str:
    """Return why a fork is not safe here, or ""."""
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        return "a CUDA context exists before the fork"
    # OpenBLAS ends its threads before each fork and starts them again afterwards
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    count = len(list(TASKS.iterdir()))
    return f"{count - 1} threads run before the fork" if count > 1 else ""


def serve(control: socket.socket) -> bool:
    """Fork a worker for each request. Return True in a worker, and False in the server when the
    runner is gone."""
    gc.freeze()  # otherwise a collection in a worker copies every page of the shared modules
    gc.enable()
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                ended = key.data
                if ended:
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    _, status = os.waitpid(ended, 0)
                    _send(control, ended=ended, code=os.waitstatus_to_exitcode(status))
                    continue
                message, files, _, _ = socket.recv_fds(control, 1024, 3)
                if not message:
                    return False
                pid = os.fork()
                if pid == 0:
                    for other in [*selector.get_map().values()]:
                        os.close(other.fd)
                    control.detach()
                    _become_worker(files)
                    return True
                for file in files:
                    os.close(file)
                _send(control, started=pid)
                selector.register(os.pidfd_open(pid), selectors.EVENT_READ, pid)


def _become_worker(files: list[int]) -> None:
    """Turn into a new process with these files as stdin, stdout and stderr."""
    for target, file in enumerate(files):
        os.dup2(file, target)
        os.close(file)
    os.setsid()  # its process group ends with it
    signals.reset(*signals.ENDING)
    numpy = sys.modules.get("numpy")
    if numpy:
        numpy.random.seed()  # a fork reseeds Python's generator, but not numpy's


def _send(control: socket.socket, **message: Any) -> None:
    control.send(json.dumps(message).encode())


if __name__ == "__main__":
    main()
