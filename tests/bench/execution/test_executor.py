"""An executor of another package, and runs without the parts that the core asks for."""

import pytest

from bench import api
from bench.catalog import registry
from bench.execution.forecast import find_forecasts
from bench.execution.listener import RunListener
from helpers import runs

MINE = """
from bench.execution.processes import LocalExecutor

class Mine(LocalExecutor):
    'Workers of my cluster.'

    def __init__(self, plan, missing, store):
        super().__init__(plan, missing, store)
        self.problem = f"{len(missing)} artifacts for my cluster"

class Absent:
    def __init__(self, plan, missing, store):
        raise OSError("no cluster")
"""


@pytest.fixture
def mine(cache, monkeypatch, installed):
    runs.workers_here(monkeypatch)
    names = {"mine": "my_cluster:Mine", "absent": "my_cluster:Absent"}
    installed("my_cluster", MINE, executors=names)


@pytest.mark.usefixtures("mine")
def test_an_executor_of_another_package_makes_the_artifacts(cli, refused, tmp_path):
    flags = ["--methods", "dense", "--measures", "size", *runs.flags(tmp_path / "r", windows=None)]
    code, _, err = cli("run", "--executor", "mine", *flags)

    assert code == 0 and "1 artifacts for my cluster" in err
    assert {record.status for record in runs.records(tmp_path / "r").values()} == {"ok"}
    assert "mine: Workers of my cluster." in " ".join(cli("run", "--help")[1].split())
    assert "unknown executor min: did you mean mine" in refused("run", "--executor", "min", *flags)
    said = refused("run", "--executor", "absent", "--methods", "magnitude", *flags[2:])
    assert "plug-in 'my_cluster:Absent' cannot be used (OSError: no cluster" in said


class Told(RunListener):
    """A listener that keeps the artifacts in their order, and the time left."""

    def __init__(self):
        self.methods, self.left = [], []

    def start(self, running, left):
        self.methods.append(running.artifact.method)
        self.left.append(left)


def test_without_forecasts_a_run_keeps_the_order_of_its_plan(cache, tmp_path, monkeypatch):
    runs.workers_here(monkeypatch)
    monkeypatch.setattr(registry, "names", lambda kind: [])
    spec = runs.small(tmp_path / "r", methods=("magnitude", "wanda"), measures=("size",), jobs=2)
    told = Told()
    api.execute(spec, told)

    assert told.methods == ["dense", "magnitude", "wanda"] and set(told.left) == {(None, None)}
    assert find_forecasts().estimate(api.plan(spec)).columns == [{}, {}, {}]
