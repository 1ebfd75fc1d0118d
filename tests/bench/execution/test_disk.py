"""What ends a run: the message names the disk that is full, and results that vanished are
noticed."""

import errno
import shutil
from types import SimpleNamespace

import pytest

from bench.execution import disk
from bench.results import store
from helpers import runs

pytestmark = pytest.mark.usefixtures("cache")


def test_a_full_disk_is_named(cache, tmp_path, monkeypatch):
    """Without a file, as safetensors raises it: the place without space, or both where none is
    full, as under a quota."""
    results, temporary = tmp_path / "r", cache / "tmp/x"
    results.mkdir()

    def said(file=None, other=None, place=results, full=()):
        free = lambda path: SimpleNamespace(free=0 if path in full else 2**40)  # noqa: E731
        monkeypatch.setattr(disk.shutil, "disk_usage", free)
        fault = OSError(errno.ENOSPC, "No space left on device", file, None, other)
        return disk.describe_full_disk(fault, place).partition(": free some space")[0]

    assert said(f"{temporary}/m") == f"the disk is full (the cache: {temporary}/m)"
    assert said("r/records/a.json") == "the disk is full (r/records/a.json)"
    assert said(f"{cache}/a", "out/a", None) == "the disk is full (out/a)"
    assert said(full=[cache]) == f"the disk is full (the cache {cache})"
    assert said(full=[results]) == f"the disk is full (the results {results})"
    assert said() == f"the disk is full (the cache {cache} or the results {results})"
    # Results in the cache are none of the user's.
    assert said(place=temporary) == f"the disk is full (the cache {cache})"
    assert said(place=None) == "the disk is full"


@pytest.mark.parametrize("again", [False, True])
def test_results_that_vanish_end_the_run(tmp_path, cli, monkeypatch, again):
    """Made anew by somebody, too: the records that were in it are not there."""

    class Deleting(runs.Here):
        def lines(self):
            lines = list(super().lines())
            shutil.rmtree(tmp_path / "r")
            if again:
                (tmp_path / "r/records").mkdir(parents=True)
            return iter(lines)

    monkeypatch.setattr(store, "PATIENCE_S", 0.5)
    monkeypatch.setattr("bench.execution.processes.WorkerProcesses.start", lambda *_: Deleting())
    flags = runs.flags(tmp_path / "r", windows=None)
    code, _, err = cli("run --methods magnitude --measures size", *flags)

    assert code == 1
    last = err.splitlines()[-1]
    assert last.startswith(
        f"bench: stopped: results folder {str(tmp_path / 'r')!r} vanished during the run"
    )
    assert "Traceback" not in err
