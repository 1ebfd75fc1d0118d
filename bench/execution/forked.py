"""The runner's end of a fork server (bench.execution.fork_server), and of the workers that it
forks."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from typing import IO, Any

from bench.execution.executor import SERVER_GONE
from bench.execution.worker_process import LOOK_S, WorkerProcess, is_readable
from bench.system import interpreter

WITHOUT_THREADS = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}
"""Default environment of the fork server, so that pyarrow, which lm-eval imports, starts no
thread."""
REPLY_S = 30.0
"""Seconds that a loaded fork server has to answer."""


class ServerEnded(Exception):
    """The fork server cannot fork, or has ended."""


class ForkServer:
    def __init__(self, preload: Sequence[str], environment: Mapping[str, str]) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._output = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed in close()
        self._exit_codes: dict[int, int] = {}
        self._lock = threading.Lock()
        """Lock of the thread that reads the socket for all threads."""
        self._is_ready = False
        with theirs:
            self._process = subprocess.Popen(
                interpreter.command("bench.execution.fork_server", str(theirs.fileno()), *preload),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                env={**WITHOUT_THREADS, **environment},
                start_new_session=True,
            )
        self.pid = self._process.pid

    def fork(self, log: IO[str]) -> ForkedWorker:
        """Fork a worker, once the server has loaded. Raise ServerEnded if it cannot fork, or was
        killed."""
        with self._lock, contextlib.ExitStack() as stack:
            if not self._is_ready:
                reply = self._receive()
                problem = reply["problem"]
                if problem:
                    raise ServerEnded(problem)
                self._is_ready = True
            their_stdin, stdin = _pipe(stack)
            stdout, their_stdout = _pipe(stack)
            try:
                socket.send_fds(self._control, [b"fork"], [their_stdin, their_stdout, log.fileno()])
            except OSError as fault:
                raise ServerEnded(self._epitaph()) from fault
            while "started" not in (reply := self._receive()):
                self._exit_codes[reply["ended"]] = reply["code"]
            pid = reply["started"]
            return ForkedWorker(self, pid, os.dup(stdin), os.dup(stdout))

    def exit_code(self, pid: int) -> int:
        """Wait until the worker has ended, and return its exit code. Raise ServerEnded if the code
        is unknown."""
        with self._lock:
            while pid not in self._exit_codes:
                reply = self._receive()
                self._exit_codes[reply["ended"]] = reply["code"]
            return self._exit_codes.pop(pid)

    def _receive(self) -> dict[str, Any]:
        try:
            end = time.monotonic() + REPLY_S
            while not select.select([self._control], [], [], LOOK_S)[0]:
                # A method may have stopped its parent.
                self._process.send_signal(signal.SIGCONT)
                if self._is_ready and time.monotonic() > end:
                    self._process.kill()
            message = self._control.recv(4096)
        except (OSError, ValueError):  # ValueError: it was closed
            message = b""
        if not message:
            raise ServerEnded(self._epitaph())
        reply: dict[str, Any] = json.loads(message)
        return reply

    def _epitaph(self) -> str:
        code = self._process.wait()
        self._output.seek(0)
        last = (self._output.read().strip().splitlines() or [""])[-1]
        why = f": {last}" if last else ""
        return f"the fork server ended (code {code}){why}"

    def close(self) -> None:
        """End the server, which may still be importing and would not notice a closed socket."""
        self._control.close()
        self._process.kill()
        self._process.wait()
        self._output.close()


class ForkedWorker(WorkerProcess):
    """A worker that is the fork server's child."""

    def __init__(self, server: ForkServer, pid: int, stdin: int, stdout: int) -> None:
        super().__init__(pid, os.fdopen(stdin, "w"), stdout)
        self._server = server
        try:
            self._handle: int | None = os.pidfd_open(pid)
        except ProcessLookupError:  # it has ended already
            self._handle = None
        self._code: int | None = None
        self._lock = threading.Lock()
        """Lock of the thread that asks for the exit code, which the server sends once."""

    def wait(self, timeout: float | None = None) -> int | None:
        """Return SERVER_GONE if the exit code is unknown."""
        with self._lock:
            if self._code is None:
                # readable once the process has ended
                if self._handle is not None and not is_readable(self._handle, timeout):
                    return None
                try:
                    self._code = self._server.exit_code(self.pid)
                except ServerEnded:
                    self._code = SERVER_GONE
            return self._code

    def send_signal(self, signum: int) -> None:
        if self._handle is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, signum)

    def close(self) -> None:
        super().close()
        if self._handle is not None:  # not earlier, because another thread may send a signal
            os.close(self._handle)
            self._handle = None


def _pipe(stack: contextlib.ExitStack) -> tuple[int, int]:
    ends = os.pipe()
    for end in ends:
        stack.callback(os.close, end)
    return ends
