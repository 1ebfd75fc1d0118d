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
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.system import interpreter
from methods.errors import UserError

LIST_S = 10.0
"""For a plug-in to be imported, where it is only listed."""
USE_S = 60.0
"""Where it was asked for: on a cold disk, torch alone may take long."""
MOST = 6
"""Times the limit, on a clock on the wall: on a busy machine, waiting for a processor does not count until then."""
LOOK_S = 0.01
"""How often to look whether one has ended."""
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
    shares_calibration: bool = False
    broken: str = ""


def describe(targets: Iterable[str], limit_s: float) -> dict[str, PlugIn]:
    """Import plug-ins, each module in a process that may take `limit_s` seconds. targets: MODULE:CLASS."""
    modules: dict[str, list[str]] = {}
    for target in targets:
        modules.setdefault(target.partition(":")[0], []).append(target)
    waiting, running, found = deque(modules.values()), list[_Probe](), dict[str, PlugIn]()
    try:
        while waiting or running:
            while waiting and len(running) < max(4, os.cpu_count() or 1):
                running.append(_Probe(waiting.popleft(), limit_s))
            for probe in [probe for probe in running if probe.has_ended]:
                running.remove(probe)
                found |= {plugin.target: plugin for plugin in probe.finish()}
            time.sleep(LOOK_S if running else 0)
    finally:
        for probe in running:
            probe.finish()
    return found


class _Probe:
    """The process that imports the plug-ins of one module."""

    def __init__(self, targets: list[str], limit_s: float) -> None:
        self._targets, self._limit_s, self._started = targets, limit_s, time.monotonic()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  closed in finish()
        self._process = subprocess.Popen(
            interpreter.command("bench.catalog.plugin_probe", str(self._said.fileno()), *targets),
            pass_fds=[self._said.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=interpreter.environment(),
            start_new_session=True,
        )

    @property
    def has_ended(self) -> bool:
        """Or it has taken too long."""
        if self._process.poll() is not None:
            return True
        took_s = time.monotonic() - self._started
        if not self._limit_s < took_s < self._limit_s * MOST:
            return took_s > self._limit_s
        return took_s - _waited_s(self._process.pid) > self._limit_s

    def finish(self) -> list[PlugIn]:
        """End it and all that it started. Returns what is known of its plug-ins."""
        code = self._process.poll()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        with self._said as said:
            said.seek(0)
            known = {plugin.target: plugin for plugin in _read(said.read(MAX_BYTES))}
        if code is None:
            why = f"not imported within {self._limit_s:g} s"
        else:
            how = f"on signal {-code}" if code < 0 else f"(code {code})"
            why = f"importing it ended Python {how}"
        return [known.get(target, PlugIn(target, broken=why)) for target in self._targets]


def _waited_s(pid: int) -> float:
    """How long a process was ready to run and had no processor; 0 where the system does not say."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def _read(said: bytes) -> Iterator[PlugIn]:
    for line in said.splitlines():
        with contextlib.suppress(ValueError, TypeError, AttributeError):  # a plug-in may write here, too
            about = json.loads(line)
            target, words, broken = (str(about.get(key, "")) for key in ("target", "about", "broken"))
            needs, fields = (tuple(map(str, about.get(key, ()))) for key in ("needs", "fields"))
            yield PlugIn(target, needs, words, fields, about.get("shares_calibration") is True, broken)


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
