"""What is installed as a plug-in, found without running its code in this process.

A plug-in is imported in a process of its own first. One that hangs, ends Python, raises or prints costs nothing but itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from bench.system import interpreter
from methods.errors import UserError

LIST_S = 10.0
"""For a plug-in to be imported, where it is only listed."""
USE_S = 60.0
"""Where it was asked for: on a cold disk, torch alone may take long."""
MAX_BYTES = 2**20
"""Of what is read about the plug-ins of one module."""


@dataclass(frozen=True)
class PlugIn:
    """What a plug-in says of itself, or why it cannot be used."""

    target: str
    needs: tuple[str, ...] = ()
    about: str = ""
    fields: tuple[str, ...] = ()
    """Its settings, each with its default."""
    broken: str = ""


def describe(targets: Iterable[str], limit_s: float) -> dict[str, PlugIn]:
    """Import plug-ins, each module in a process that may take `limit_s` seconds. targets: MODULE:CLASS."""
    modules: dict[str, list[str]] = {}
    for target in targets:
        modules.setdefault(target.partition(":")[0], []).append(target)
    if not modules:
        return {}
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        results = threads.map(lambda group: _describe_module(group, limit_s), modules.values())
        return {plugin.target: plugin for group in results for plugin in group}


def _describe_module(targets: list[str], limit_s: float) -> list[PlugIn]:
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            interpreter.command("bench.catalog.plugin_probe", str(said.fileno()), *targets),
            pass_fds=[said.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=interpreter.environment(),
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)  # what it started, too
            process.kill()
            process.wait()
        said.seek(0)
        known = {plugin.target: plugin for plugin in _read(said.read(MAX_BYTES))}
    if code is None:
        why = f"not imported within {limit_s:g} s"
    else:
        why = f"importing it ended Python on signal {-code}" if code < 0 else f"importing it ended Python (code {code})"
    return [known.get(target, PlugIn(target, broken=why)) for target in targets]


def _read(said: bytes) -> Iterator[PlugIn]:
    for line in said.splitlines():
        with contextlib.suppress(ValueError, TypeError):
            about = json.loads(line)
            yield PlugIn(**{k: tuple(map(str, v)) if isinstance(v, list) else str(v) for k, v in about.items()})


@contextlib.contextmanager
def as_guest(name: str) -> Iterator[None]:
    """Within it a plug-in's code runs in this process: what it prints goes to stderr.

    Raises:
        UserError: in place of whatever it raises.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except UserError:
        raise
    except (Exception, SystemExit) as fault:
        if type(fault) is not SystemExit and isinstance(fault, SystemExit):
            raise  # a signal's
        why = f"{type(fault).__name__}: " + " ".join(str(fault).split())
        raise UserError(f"plug-in {name!r} cannot be used ({why}): repair or uninstall it") from fault
