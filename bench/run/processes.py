"""A process for each artifact: the first is started anew, the others are forked from a server that has imported all.

The server (bench.run.fork_server) starts beside the first worker, which loads meanwhile. Where forking is not safe, each
worker is started anew.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from typing import IO, Any, Protocol

from bench.plan.artifact import Measurement
from bench.system.devices import matching_onednn_limit
from methods.folder import Folder

KEEPS_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**40)}
"""glibc would return each large tensor's memory and get it anew, page by page."""
SHORT_SPIN = {"GOMP_SPINCOUNT": "4000"}
"""How long OpenMP's threads spin before they sleep. By default about a hundred times as long, which takes the cores from
another run on the machine: two runs then take five times one. Not spinning at all costs a lone run up to a tenth. Measured by
benchmarks/side_by_side.py."""

WITHOUT_THREADS = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}
"""The fork server's environment, unless set: pyarrow, which lm-eval imports, would start a thread at once."""

COMMAND = (sys.executable, "-m", "bench.run.worker")
SERVER_COMMAND = (sys.executable, "-m", "bench.run.fork_server")

OWN_PACKAGES = ("bench", "methods", "cast", "baselines")

SERVER_GONE = 1001
"""Exit code of a worker whose fork server ended before it: its own is unknown."""


class WorkerProcess(Protocol):
    """What bench.run.runner uses of a worker."""

    stdin: IO[str]
    stdout: IO[str]

    def wait(self) -> int:
        """Its exit code, once it has ended; minus the signal that ended it; SERVER_GONE where it is unknown."""
        ...

    def kill(self) -> None: ...


def worker_environment() -> dict[str, str]:
    """This process's, and what is best for a worker where it does not say."""
    spin = {} if "OMP_WAIT_POLICY" in os.environ else SHORT_SPIN
    return KEEPS_MEMORY | spin | matching_onednn_limit() | os.environ


class WorkerProcesses:
    """Starts the workers of one run."""

    def __init__(self, count: int, preload: Sequence[str]) -> None:
        """count: how many will be started, about; preload: modules that they import."""
        self._count, self._preload = count, preload
        self._server: ForkServer | None = None
        self.problem = ""
        """Why workers are not forked, where that was not to be expected."""

    def start(self, log: IO[str]) -> WorkerProcess:
        """Start a worker that writes what it prints to `log`."""
        if self._server:
            try:
                return self._server.fork(log)
            except ServerEnded as ended:
                self.problem = str(ended)
                self.close()
                self._count = 0
        worker = subprocess.Popen(
            COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=worker_environment()
        )
        if self._count > 1 and can_fork():
            self._server = ForkServer(self._preload)
        return worker  # type: ignore[return-value]  # with pipes, stdin and stdout are there

    def close(self) -> None:
        if self._server:
            self._server.close()
            self._server = None


def list_imports(measurements: Iterable[Measurement]) -> tuple[str, ...]:
    """The modules that workers on these measurements import, but for those of plug-ins."""
    modules = {"bench.run.build": None, "bench.run.measure": None}
    for measurement in measurements:
        family = Folder(measurement.artifact.folder).config["model_type"]
        modules[f"transformers.models.{family}.modeling_{family}"] = None
        for target in (measurement.target, *(stage.target for stage in measurement.artifact.stages)):
            module = target.partition(":")[0]
            if module.partition(".")[0] in OWN_PACKAGES:
                modules[module] = None
        if measurement.measure == "zeroshot":
            modules["bench.inputs.lmeval"] = None  # imported as late as its measure reads
    return tuple(modules)


def can_fork() -> bool:
    """Linux alone: elsewhere system libraries start threads that a fork breaks."""
    if sys.platform != "linux":
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:  # an old kernel
        return False
    return True


class ServerEnded(Exception):
    """The fork server cannot be used, or no longer."""


class ForkServer:
    """The runner's end of a fork server."""

    def __init__(self, preload: Sequence[str]) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed in close()
        self._exit_codes: dict[int, int] = {}
        self._is_ready = False
        with theirs:
            self._process = subprocess.Popen(
                [*SERVER_COMMAND, str(theirs.fileno()), *preload],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                env=WITHOUT_THREADS | worker_environment(),
            )

    def fork(self, log: IO[str]) -> ForkedWorker:
        """A new worker; waits for the server where it is still loading.

        Raises:
            ServerEnded: it cannot fork, or was killed.
        """
        if not self._is_ready:
            reply = self._receive()
            if problem := reply["problem"]:
                raise ServerEnded(problem)
            self._is_ready = True
        with contextlib.ExitStack() as stack:
            their_stdin, stdin = _pipe(stack)
            stdout, their_stdout = _pipe(stack)
            try:
                socket.send_fds(self._control, [b"fork"], [their_stdin, their_stdout, log.fileno()])
            except OSError as fault:
                raise ServerEnded(self._epitaph()) from fault
            while "started" not in (reply := self._receive()):
                self._exit_codes[reply["ended"]] = reply["code"]
            pid = reply["started"]
            worker = ForkedWorker(self, pid, os.dup(stdin), os.dup(stdout))
        return worker

    def exit_code(self, pid: int) -> int:
        """Waits until the worker has ended.

        Raises:
            ServerEnded: it is not known any more.
        """
        while pid not in self._exit_codes:
            reply = self._receive()
            self._exit_codes[reply["ended"]] = reply["code"]
        return self._exit_codes.pop(pid)

    def _receive(self) -> dict[str, Any]:
        try:
            message = self._control.recv(4096)
        except OSError:
            message = b""
        if not message:
            raise ServerEnded(self._epitaph())
        reply: dict[str, Any] = json.loads(message)
        return reply

    def _epitaph(self) -> str:
        code = self._process.wait()
        self._output.seek(0)
        last = (self._output.read().strip().splitlines() or [""])[-1]
        return f"the fork server ended (code {code})" + (f": {last}" if last else "")

    def close(self) -> None:
        """The server ends by itself once its socket is closed; one that is still importing does not see it."""
        self._control.close()
        self._process.kill()
        self._process.wait()
        self._output.close()


class ForkedWorker:
    """A worker that is the fork server's child."""

    def __init__(self, server: ForkServer, pid: int, stdin: int, stdout: int) -> None:
        self._server, self.pid = server, pid
        self.stdin: IO[str] = os.fdopen(stdin, "w")
        self.stdout: IO[str] = os.fdopen(stdout)
        try:
            self._handle: int | None = os.pidfd_open(pid)
        except ProcessLookupError:  # it ended at once
            self._handle = None
        self._code: int | None = None

    def wait(self) -> int:
        if self._code is None:
            try:
                self._code = self._server.exit_code(self.pid)
            except ServerEnded:
                if self._handle is not None:
                    select.select([self._handle], [], [])  # readable once the process has ended
                self._code = SERVER_GONE
            if self._handle is not None:
                os.close(self._handle)
                self._handle = None
        return self._code

    def kill(self) -> None:
        if self._handle is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)


def _pipe(stack: contextlib.ExitStack) -> tuple[int, int]:
    ends = os.pipe()
    for end in ends:
        stack.callback(os.close, end)
    return ends
