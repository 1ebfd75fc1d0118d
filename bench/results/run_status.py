"""What a run says of itself in its results folder while it is at work: runs/NAME.json, and a lock that it holds."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from bench.system.cache import sweep_locks
from bench.system.files import atomic_write

FOLDER = "runs"
KEPT = 20
"""Files of runs that have ended; older ones are deleted."""
MAX_BYTES = 2**22
"""Of a file that is read."""


class _StatusPart(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class AtWork(_StatusPart):
    """An artifact at work. since: seconds since the epoch; left: until its phase ends."""

    label: str
    device: str = ""
    phase: str = ""
    state: str = ""
    """In place of done and total, where nothing is counted yet."""
    done: int = 0
    total: int = 0
    figures: dict[str, float] = {}
    since: float = 0.0
    left: float | None = None


class RunStatus(_StatusPart):
    """A run. Times are seconds since the epoch; left: until all of it ends, as of `updated`."""

    name: str
    code: str
    """Which version of this package."""
    host: str
    executor: str
    started: float
    updated: float
    ended: float | None = None
    outcome: str = ""
    """Why it ended, where not because all was done."""
    total: int = 0
    """Measurements."""
    known: int = 0
    """Of them, recorded before it began."""
    tried: dict[str, int] = {}
    """Of the others, by what came of them."""
    left: float | None = None
    at_work: list[AtWork] = []

    @property
    def done(self) -> int:
        return self.known + sum(self.tried.values())


def write_status(root: Path, status: RunStatus) -> None:
    with atomic_write(root / FOLDER / f"{status.name}.json") as temporary:
        temporary.write_text(status.model_dump_json(indent=1) + "\n")


def lock_of(root: Path, name: str) -> Path:
    """Locked as long as the run lives."""
    return root / FOLDER / f"{name}.lock"


def read_statuses(root: Path) -> tuple[list[tuple[RunStatus, bool]], list[str]]:
    """The runs of a results folder, the latest last, with whether each lives; and a sentence for each file that is none."""
    found, problems = [], []
    for path in sorted((root / FOLDER).glob("*.json")):
        try:
            if not path.is_file() or path.stat().st_size > MAX_BYTES:
                raise ValueError("it is no file, or too large")
            status = RunStatus.model_validate_json(path.read_bytes())
            if status.name != path.stem:
                raise ValueError("it bears another name")
        except FileNotFoundError:
            continue
        except (ValidationError, ValueError) as fault:
            problems.append(f"{path} is no status of a run ({str(fault).splitlines()[0]}): ignored")
            continue
        found.append((status, is_alive(root, status.name)))
    return sorted(found, key=lambda pair: (pair[1], pair[0].started)), problems


def is_alive(root: Path, name: str) -> bool:
    path = lock_of(root, name)
    if not path.is_file():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # a folder of somebody else's
        return False


def sweep_statuses(root: Path) -> None:
    """Delete the oldest files of runs that have ended, and locks that nobody holds."""
    sweep_locks(root / FOLDER)
    ended = [status for status, alive in read_statuses(root)[0] if not alive]
    for status in ended[: max(0, len(ended) - KEPT)]:
        (root / FOLDER / f"{status.name}.json").unlink(missing_ok=True)
