"""How many artifacts are made at a time: as typed, one a card, or as many as fit."""

import io
import json
from dataclasses import replace
from itertools import chain
from types import SimpleNamespace
from typing import ClassVar

import pytest

from bench import api
from bench.execution import runner, sweep
from bench.execution.processes import WorkerProcesses
from bench.execution.progress import LogDisplay
from bench.planning import plan as planning
from bench.planning import resolve
from bench.planning.memory import estimate_bytes
from bench.planning.spec import Spec
from bench.results.store import Store
from bench.system import devices
from helpers import runs
from methods.contract.errors import UserError

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def machine(monkeypatch):
    """machine(cores, artifacts) -> a machine with so many cores, and memory for so many of tiny's
    artifacts at a time."""

    def set_up(cores, artifacts):
        one = estimate_bytes(api.plan(runs.small("r")).measurements[0].artifact)
        for module in (planning, resolve):
            monkeypatch.setattr(module, "cores", lambda: cores)
        monkeypatch.setattr(
            planning, "memory_bytes", lambda: int(one * (artifacts + 0.1) / planning.JOBS_SHARE)
        )

    return set_up


@pytest.fixture
def cards(monkeypatch):
    """Four that are not there."""
    here = ["cpu", *(f"cuda:{i}" for i in range(4))]
    resolve_device = lambda name: name if name in here else "cpu"  # noqa: E731
    monkeypatch.setattr(devices, "resolve_device", resolve_device)


class Worker(runs.Here):
    """A worker that does nothing. at_work: those that were sent a job and not closed."""

    at_work: ClassVar[list] = []

    def send(self, line):
        self.device = json.loads(line)["measurements"][0]["artifact"]["device"]
        self.at_work.append(self)
        self.on_send()

    def lines(self):
        return iter(())

    def close(self):
        self.at_work.remove(self)


@pytest.fixture
def jobs_sent(monkeypatch):
    """The devices of the workers at work, at each job that is sent."""
    sent = []
    on_send = lambda worker: sent.append([w.device for w in Worker.at_work])  # noqa: E731
    monkeypatch.setattr(Worker, "on_send", on_send, raising=False)
    monkeypatch.setattr(WorkerProcesses, "start", lambda *_: Worker())
    return sent


@pytest.mark.parametrize(
    ("cores", "fit", "named", "jobs", "threads"),
    [(8, 3, None, 3, 2), (2, 50, None, 2, 1), (16, 0, None, 1, 16), (8, 50, 4, 2, 4)],
)
def test_auto_goes_by_memory_and_cores_and_leaves_threads_that_were_named(
    machine, cores, fit, named, jobs, threads
):
    machine(cores, fit)
    plan = api.plan(runs.small("r", jobs="auto", threads=named))

    assert (plan.jobs, plan.measurements[0].artifact.threads) == (jobs, threads)


@pytest.mark.usefixtures("cards")
@pytest.mark.parametrize(("jobs", "count", "used"), [(None, 3, 3), (2, 2, 2), (6, 6, 3)])
def test_each_card_has_an_artifact(jobs, count, used):
    plan = api.plan(runs.small("r", device="cuda:0,cuda:2,cuda:3", jobs=jobs))

    assert plan.jobs == count
    assert plan.devices == ("cuda:0", "cuda:2", "cuda:3")[:used]
    found = {m.key for m in plan.measurements}
    assert found == {m.key for m in api.plan(runs.small("r", device="cuda:1")).measurements}


@pytest.mark.usefixtures("cards")
def test_artifacts_go_to_the_card_that_is_free(tmp_path, jobs_sent):
    methods = ("magnitude", "wanda", "ria")
    about = {"device": "cuda:0,cuda:1", "methods": methods, "measures": ("size",)}
    spec = runs.small(tmp_path / "r", **about)
    runner.execute(api.plan(spec), Store(spec.results), [LogDisplay(io.StringIO())])

    assert len(jobs_sent) == 4 and set(chain(*jobs_sent)) == {"cuda:0", "cuda:1"}
    assert all(len(devices) == len(set(devices)) for devices in jobs_sent), "one has two at work"


@pytest.mark.usefixtures("cards")
@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"device": "cuda:0,cuda:00"}, "is not a list of cards: give each once"),
        ({"device": "cpu,cpu"}, "use --jobs"),
        ({"device": "cuda:0,auto"}, "not a list of cards"),
        ({"device": "cuda:0,cuda:1", "training": {"processes": 2}}, "training.processes=2"),
        (
            {"device": "cuda:1", "training": {"processes": 2}},
            "takes the first 2 GPUs, not cuda:1: use --device cuda, with",
        ),
        ({"jobs": 0}, "or auto"),
        ({"jobs": "many"}, "invalid jobs=many"),
    ],
)
def test_what_cannot_be_is_refused(settings, word):
    with pytest.raises(UserError, match=word) as refused:
        api.plan(Spec(methods="cast", **settings))
    assert len(str(refused.value).splitlines()) == 1


def test_large_artifacts_wait_for_memory(monkeypatch, tmp_path, jobs_sent):
    """With `auto` no more are begun than what is free allows now."""
    methods = ("magnitude", "wanda")
    spec = runs.small(tmp_path / "r", jobs="auto", methods=methods, measures=("size",))
    plan = replace(api.plan(spec), jobs=3)
    one = estimate_bytes(plan.measurements[0].artifact)
    memory = SimpleNamespace(available=one * 1.5, total=one * 9)
    monkeypatch.setattr(sweep.psutil, "virtual_memory", lambda: memory)
    runner.execute(plan, Store(spec.results), [LogDisplay(io.StringIO())])

    assert [len(devices) for devices in jobs_sent] == [1, 1, 1]
