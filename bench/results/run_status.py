"""The status of a run in its results folder: runs/NAME.json, and a lock that the run holds."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from bench.system.cache import sweep_locks
from bench.system.files import write_file
from methods.contract.errors import first_line

FOLDER = "runs"
KEPT = 20
"""Number of files of ended runs that are kept."""

Seconds = Annotated[float, Field(ge=0, le=1e11)]


class AtWork(BaseModel, extra="forbid", allow_inf_nan=False):
    """An artifact that is being made. since: seconds since the epoch. left: seconds until its phase
    ends."""

    label: str
    device: str = ""
    phase: str = ""
    state: str = ""
    """Text to show instead of `done` and `total`, if nothing is counted yet."""
    done: int = 0
    total: int = 0
    figures: dict[str, float] = {}
    since: Seconds = 0.0
    left: Seconds | None = None


class RunStatus(BaseModel, extra="forbid", allow_inf_nan=False):
    """A run. Times are seconds since the epoch. left: seconds until all of it ends, as of
    `updated`."""

    name: str
    code: str
    """Version of this package."""
    host: str
    executor: str
    started: Seconds
    updated: Seconds
    ended: Seconds | None = None
    outcome: str = ""
    """Reason for the end, unless all was done."""
    total: int = 0
    """Number of measurements."""
    known: int = 0
    """Number of measurements with a record from an earlier run."""
    tried: dict[str, int] = {}
    """Number of other measurements, by status."""
    left: Seconds | None = None
    at_work: list[AtWork] = []

    @property
    def done(self) -> int:
        return self.known + sum(self.tried.values())


def write_status(root: Path, status: RunStatus) -> None:
    write_file(root / FOLDER / f"{status.name}.json", status.model_dump_json(indent=1) + "\n")


def lock_of(root: Path, name: str) -> Path:
    """Return the file that the run locks while it lives."""
    return root / FOLDER / f"{name}.lock"


def read_statuses(root: Path) -> tuple[list[tuple[RunStatus, bool]], list[str]]:
    """Read the runs of a results folder, latest last, each with whether it lives. Also return a
    sentence for each bad file."""
    found, problems = [], []
    for path in sorted((root / FOLDER).glob("*.json")):
        try:
            status = RunStatus.model_validate_json(path.read_bytes())
            if status.name != path.stem:
                raise ValueError("its name is another")
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as fault:
            problems.append(f"{path} is not the status of a run ({first_line(fault)}): ignored")
            continue
        found.append((status, is_alive(root, status.name)))
    return sorted(found, key=lambda pair: (pair[1], pair[0].started)), problems


def is_alive(root: Path, name: str) -> bool:
    """Return whether a process holds the run's lock."""
    path = lock_of(root, name)
    if not path.is_file():
        return False
    try:
        # FileLock locks with flock, too. This lock is shared, so that two who ask do not see each
        # other.
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except OSError:  # another user's folder
        return False


def sweep_statuses(root: Path) -> None:
    """Delete the oldest files of ended runs, and unused locks."""
    sweep_locks(root / FOLDER, "*.lock")
    ended = [status for status, alive in read_statuses(root)[0] if not alive]
    for status in ended[: max(0, len(ended) - KEPT)]:
        (root / FOLDER / f"{status.name}.json").unlink(missing_ok=True)
