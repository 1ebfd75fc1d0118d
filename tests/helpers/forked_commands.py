"""Command lines in processes forked from one with the imports, each with limits."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

BYTES, CPU_S = 2 * 10**9, 20
"""Address space, and seconds of processor time, of a command."""
IMPORTS = (
    "bench.cli.main", "bench.comparing.verdict", "bench.reporting.board", "bench.api",
    "bench.results.folder_check", "bench.results.merge", "bench.cli.listing", "bench.planning.plan",
    "pyarrow.parquet", "tokenizers",
)  # fmt: skip


class Ended(NamedTuple):
    """The exit code and the output of a command."""

    code: int
    """Negative: the signal that killed it."""
    out: str
    err: str


class Commands:
    """Runs command lines under the limits. `with` starts and ends the process that forks."""

    def __enter__(self) -> Commands:
        pipe = subprocess.PIPE
        code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve()"
        command = [sys.executable, "-c", code]
        self._server = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()

    def run(self, arguments: list[str], folder: Path, environment: dict[str, str]) -> Ended:
        """Run a command in a folder."""
        job = {"arguments": arguments, "folder": str(folder), "environment": environment}
        print(json.dumps(job), file=self._server.stdin, flush=True)
        answer = self._server.stdout.readline()
        assert answer, "the server has ended"
        return Ended(*json.loads(answer))


def serve() -> None:
    """Run the commands of standard input."""
    sys.dont_write_bytecode = True  # tests look for files that a command leaves
    for name in IMPORTS:
        __import__(name)
    for line in sys.stdin:
        job = json.loads(line)
        files = [os.memfd_create(name) for name in ("out", "err")]
        if (pid := os.fork()) == 0:
            _command(job, *files)
        _, status = os.waitpid(pid, 0)
        texts = [_text(file) for file in files]
        print(json.dumps([os.waitstatus_to_exitcode(status), *texts]), flush=True)


def _text(file: int) -> str:
    with os.fdopen(file, "rb") as stream:
        stream.seek(0)
        return stream.read().decode(errors="replace")


def _command(job: dict[str, Any], out: int, err: int) -> None:
    code = 1
    try:
        os.setsid()
        for file, number in ((os.open(os.devnull, os.O_RDONLY), 0), (out, 1), (err, 2)):
            os.dup2(file, number)
        os.chdir(job["folder"])
        os.environ.update(job["environment"])
        sys.argv = ["bench", *job["arguments"]]
        resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
        from bench.cli.main import main

        main()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:  # noqa: BLE001 (as Python does)
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
