"""Programs of this project that tests start, forked from a process with all imports.

A new Python spends seconds on the imports of torch and transformers. A forked program has the
files, arguments, environment, folder and session that `subprocess` asks for, and is a child of the
test's process. Only what a library reads at import, as a variable, is that of the session. What
such a program starts is forked from itself. `runs.start` starts new processes.
"""

import atexit
import contextlib
import ctypes
import faulthandler
import fcntl
import gc
import importlib.util
import json
import os
import random
import socket
import subprocess
import sys
import threading
import types
import weakref

import numpy
import torch

from bench.execution import signals
from bench.execution.descendants import PR_SET_CHILD_SUBREAPER, end_with_parent
from bench.system import interpreter
from helpers import runs

PR_GET_CHILD_SUBREAPER = 37
PREFIX = interpreter.command("")[:-1]
"""Start of a command of a program of ours. Other commands start new processes."""
HIGH = 500
"""File descriptors from here on are free in the server."""


class ForkedPython:
    """The server. Until it is closed, `subprocess` forks programs from it."""

    def __init__(self):
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._owner, self._lock = os.getpid(), threading.Lock()
        self._start_new, subprocess._fork_exec = subprocess._fork_exec, self._start
        self._server = os.fork()
        if self._server == 0:
            try:
                self._socket.close()
                _serve(theirs)
            finally:
                os._exit(0)
        theirs.close()

    def close(self):
        subprocess._fork_exec = self._start_new
        self._socket.close()
        os.waitpid(self._server, 0)

    @contextlib.contextmanager
    def paused(self):
        """Start new processes within the block."""
        subprocess._fork_exec = self._start_new
        yield
        subprocess._fork_exec = self._start

    def _start(self, args, paths, close_fds, keep, folder, variables, *rest):
        """Do what subprocess asks of its C function. Return the process id."""
        words = [os.fsdecode(arg) for arg in args]
        if words[: len(PREFIX)] != PREFIX:
            return self._start_new(args, paths, close_fds, keep, folder, variables, *rest)
        stdin, _, _, stdout, _, stderr, _, failed, _, has_session = rest[:10]
        if variables is None:
            variables = [os.fsencode(f"{name}={value}") for name, value in os.environ.items()]
        standard = [0 if stdin == -1 else stdin, 1 if stdout == -1 else stdout]
        files = [*standard, 2 if stderr == -1 else stderr, *(f for f in keep if f != failed)]
        job = {
            "words": words[len(PREFIX) :],
            "variables": [os.fsdecode(variable) for variable in variables],
            "folder": os.fsdecode(folder or os.getcwd()),
            "session": bool(has_session),
            "numbers": [0, 1, 2, *files[3:]],
        }
        if os.getpid() != self._owner:  # a program, whose child no other process can make
            pid = os.fork()
            if pid == 0:
                _run(job, files)
            return pid
        with self._lock, _adopting():
            socket.send_fds(self._socket, [json.dumps(job).encode()], files)
            return int(self._socket.recv(100))


@contextlib.contextmanager
def _adopting():
    """Become the parent of orphans within the block."""
    before, libc = ctypes.c_int(), ctypes.CDLL(None)
    libc.prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(PR_SET_CHILD_SUBREAPER, before.value, 0, 0, 0)


def _serve(control):
    """Fork a program for each request. Its parent ends, so that the test's process adopts it."""
    end_with_parent()
    gc.freeze()
    while True:
        message, files, _, _ = socket.recv_fds(control, 2**20, 100)
        if not message:
            return
        ours, theirs = os.pipe()
        between = os.fork()
        if between == 0:
            between = os.getpid()
            pid = os.fork()
            if pid:
                os.write(theirs, str(pid).encode())
                os._exit(0)
            while os.getppid() == between:
                os.sched_yield()
            _run(json.loads(message), files)
        os.waitpid(between, 0)
        control.send(os.read(ours, 100))
        for file in (*files, ours, theirs):
            os.close(file)


def _run(job, files):
    """Be the program from its first line to the end of its process."""
    code = 1
    try:
        _become(job, files)
        module, *sys.argv[1:] = job["words"]
        spec = importlib.util.find_spec(module)
        sys.argv[0] = spec.origin
        program = sys.modules["__main__"] = types.ModuleType("__main__")
        program.__spec__, program.__file__ = spec, spec.origin
        exec(spec.loader.get_code(module), vars(program))
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int | None) else 1
        if code is not end.code:
            print(end.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 (as Python does)
        sys.excepthook(*sys.exc_info())
    try:
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code or 0)


def _become(job, files):
    """Take the files, environment and folder of the program, and forget what pytest set."""
    high = [fcntl.fcntl(file, fcntl.F_DUPFD, HIGH) for file in files]
    os.closerange(0, HIGH)
    for file, number in zip(high, job["numbers"], strict=True):
        os.dup2(file, number)
    os.closerange(HIGH, HIGH + 1000)
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    if job["session"]:
        os.setsid()
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update(variable.split("=", 1) for variable in job["variables"])
    own = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [*filter(None, own), *interpreter._installed()]
    signals.reset(*signals.ENDING)
    sys.unraisablehook, threading.excepthook = sys.__unraisablehook__, threading.__excepthook__
    faulthandler.disable()
    atexit._clear()
    weakref.finalize._registered_with_atexit = False
    torch.set_num_threads(1)  # a fork has none of the threads that OpenMP may have started
    random.seed()
    numpy.random.seed()
    runs.forget()
