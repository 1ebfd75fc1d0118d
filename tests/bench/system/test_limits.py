"""Limits of the shell end a run in a sentence, before its work."""

import errno
import resource
from pathlib import Path

import pytest

from bench import api
from bench.execution import prune
from bench.planning.spec import Spec
from bench.system import limits
from bench.system.files import require_folder
from helpers import runs
from methods.contract.errors import UserError

OPEN, SIZE = resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE


@pytest.fixture
def limit(monkeypatch, tmp_path):
    """Set what this process is told about one limit. The others are as they are."""
    runs.own_cache(tmp_path, monkeypatch)
    real = resource.getrlimit

    def set_limit(which, value):
        def told(asked):
            return (value, value) if asked == which else real(asked)

        monkeypatch.setattr(resource, "getrlimit", told)

    return set_limit


@pytest.mark.parametrize(
    ("which", "said"), [(OPEN, "allows 12 open files"), (SIZE, "allows files of 12 bytes")]
)
def test_a_limit_is_met_before_the_work(limit, tmp_path, which, said):
    limit(which, 12)
    spec = runs.small(tmp_path / "r")
    for work in (lambda: api.execute(spec), lambda: prune.write_pruned(spec, tmp_path / "out")):
        with pytest.raises(UserError, match=said):
            work()
    assert not list((tmp_path / "cache").glob("artifacts/*"))


@pytest.mark.parametrize("allowed", [resource.RLIM_INFINITY, 2**40])
def test_enough_is_enough(limit, allowed):
    limit(SIZE, allowed)
    limits.require_limits([runs.TINY])


def test_a_limit_that_is_met_later_is_a_sentence_too():
    for code, said in (
        (errno.EMFILE, "raise it (ulimit -n), or run fewer --jobs"),
        (errno.EFBIG, "bytes, which is too few: set ulimit -f"),
    ):
        assert said in limits.describe_limit(OSError(code, ""))
    assert not limits.describe_limit(OSError(errno.ENOSPC, ""))


def test_more_seeds_than_a_plan_can_show_are_refused():
    assert len(Spec(seeds=range(1000)).seeds) == 1000
    with pytest.raises(UserError, match="must be at most 1000 seeds, not 1,001"):
        Spec(seeds=range(1001))


def test_the_current_folder_is_not_replaced(tmp_path, monkeypatch):
    """It is empty, and cannot be renamed onto."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    for name in (".", "link"):
        with pytest.raises(UserError, match="is the current folder"):
            require_folder(Path(name), new=True)
    require_folder(Path("."), "--results", new=False)
