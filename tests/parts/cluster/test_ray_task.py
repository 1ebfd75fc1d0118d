"""What a Ray task does on its node, without Ray: records of a node that does not see the results
folder come whole."""

import json
import os
import shutil
import sys
from types import SimpleNamespace

import pytest

from bench import api
from bench.execution.worker import Assignment
from bench.parts.cluster import ray_executor, ray_task
from bench.parts.cluster.ray_executor import _places, describe_lack, find_least, resources_of
from bench.planning.memory import estimate_bytes
from bench.planning.spec import Spec
from bench.results.record import parse
from bench.results.store import Store
from bench.results.transfer import pack_record, unpack_record
from bench.system.provenance import describe_code
from helpers import runs
from methods.contract.errors import UserError

START = ray_task._start


@pytest.fixture(autouse=True)
def world(tmp_path, monkeypatch):
    runs.own_cache(tmp_path, monkeypatch)
    monkeypatch.setattr(ray_task, "_watch", lambda *_: None)  # it asks the driver, through Ray
    monkeypatch.setattr(ray_task, "_start", lambda job, log: (log.touch(), runs.Here())[1])


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("source")
        runs.own_cache(root, patch)
        runs.run_here(runs.small(root / "r"))
    return Store(root / "r")


def orders(spec, mark="", code=""):
    """A task's order for each artifact."""
    for measurements in api.plan(spec).artifacts().values():
        job = Assignment(measurements=measurements, results=spec.results.resolve(), wait=True)
        yield ray_task.Order(
            job=job, code=code or describe_code(), environment={}, mark=mark, stops=""
        )


def keys(order):
    return [m.key for m in order.job.measurements]


def events_of(order):
    return [json.loads(line) for line in ray_task.make(order.model_dump_json())]


@pytest.mark.full
def test_records_of_a_node_that_sees_no_results_folder_come_whole(tmp_path, source):
    away = runs.small(tmp_path / "away")
    store = Store(away.results)
    for order in orders(away, mark="a file that is not here"):
        events = events_of(order)
        assert [e["event"] for e in events if e["event"] not in ("state", "progress")] == [
            "begun", "node", "imported", *["record", "measurement"] * 3, "exit",
        ]  # fmt: skip
        assert events[1]["shares_results"] is False
        assert not runs.contents(away.results).keys() & set(keys(order))
        for event in events:
            if event["event"] == "record":
                unpack_record(store, event, keys(order))

    assert runs.contents(away.results) == runs.contents(source.root)
    assert len(runs.contents(source.root)) == 6
    for record in store:
        if record.items:
            assert len(store.items(record).ids) == record.items.rows


def test_a_node_that_sees_the_folder_writes_there(tmp_path):
    spec = runs.small(tmp_path / "r")
    (Store(spec.results).root / "locks/mark").touch()
    for order in orders(spec, mark="mark"):
        events = events_of(order)
        assert events[1]["shares_results"] is True
        assert not [e for e in events if e["event"] == "record"]
    assert len(runs.contents(spec.results)) == 6


def test_another_version_makes_nothing(tmp_path):
    spec = runs.small(tmp_path / "r")
    Store(spec.results)
    (event,) = events_of(next(orders(spec, code="9.9.9 (code 00000000)")))

    assert event["event"] == "refused" and "9.9.9 (code 00000000)" in event["reason"]
    assert describe_code() in event["reason"]
    assert not runs.contents(spec.results)


def test_artifacts_of_one_ray_worker_get_the_cards_that_ray_gives_them(tmp_path, monkeypatch):
    """A fork server has the environment of its start."""
    said = []

    class Processes:
        def __init__(self, count, preload):
            self.cards = os.environ[ray_task.CARDS]

        def start(self, file):
            said.append(self.cards)

        def close(self):
            said.append(f"{self.cards} closed")

    monkeypatch.setattr(ray_task, "WorkerProcesses", Processes)
    monkeypatch.setattr(ray_task, "_processes", None)
    job = next(orders(runs.small(tmp_path / "r"))).job
    for cards in ("0", "0", "1,2"):
        monkeypatch.setenv(ray_task.CARDS, cards)
        START(job, tmp_path / "log")

    assert said == ["0", "0", "0 closed", "1,2"]


def of_another_artifact(record):
    return parse(record.encode(), "a record").model_copy(update={"artifact": "0" * 64}).to_json()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: p | {"items": p["items"][4:]}, "checksum mismatch"),
        (lambda p: p | {"record": p["record"].replace('"ok"', '"failed"')}, "changed after"),
        (lambda p: p | {"record": of_another_artifact(p["record"])}, "contradicts itself"),
        pytest.param(lambda p: p | {"items": "é"}, "not whole|ASCII", marks=pytest.mark.full),
        pytest.param(
            lambda p: p | {"record": "[]"}, "TypeError|AttributeError", marks=pytest.mark.full
        ),
    ],
)
def test_damage_on_the_way_is_seen(source, tmp_path, change, words):
    target = Store(tmp_path / "t")
    key = next(r.key for r in source if r.items)
    with pytest.raises((ValueError, UserError), match=words):
        unpack_record(target, change(pack_record(source, key)), [key])
    with pytest.raises(ValueError, match="not requested"):
        unpack_record(target, pack_record(source, key), ["another"])
    assert not runs.contents(tmp_path / "t")


@pytest.mark.full
def test_an_artifact_whose_record_comes_damaged_is_made_again(source, tmp_path, monkeypatch):
    key = next(r.key for r in source if r.items)
    damaged = {"event": "record", **pack_record(source, key), "items": "é"}
    cancelled = []
    names = ("TaskCancelledError", "RayTaskError", "RayError")
    faults = {name: type(name, (Exception,), {}) for name in names}
    ray = SimpleNamespace(get=lambda event: event, exceptions=SimpleNamespace(**faults))
    ray.cancel = lambda task, force: cancelled.append(task)
    monkeypatch.setattr(ray_executor, "import_ray", lambda: ray)
    submit = lambda line: [json.dumps(damaged)]  # noqa: E731
    executor = SimpleNamespace(store=Store(tmp_path / "t"), submit=submit)
    job = next(o.job for o in orders(runs.small(tmp_path / "r")) if key in keys(o))
    with (tmp_path / "log").open("w") as log:
        worker = ray_executor.RayWorker(executor, log)
        worker.send(job.model_dump_json())
        assert not list(worker.lines())

    assert ray_executor.RayExecutor.reruns(executor, worker.wait()) and cancelled
    assert "a damaged record arrived" in (tmp_path / "log").read_text()


def test_a_finished_record_is_not_replaced(source, tmp_path):
    store = Store(shutil.copytree(source.root, tmp_path / "r"))
    record = next(iter(store))
    before = store.path(record.key).read_bytes()
    unpack_record(store, pack_record(store, record.key), [record.key])
    assert store.path(record.key).read_bytes() == before


def test_a_task_asks_for_what_its_plan_says(tmp_path):
    plan = api.plan(runs.small(tmp_path / "r", threads=3, methods=("wanda",)))
    artifact = next(m.artifact for m in plan.measurements if m.artifact.calibration)
    wanted = resources_of(artifact)

    assert wanted == {"num_cpus": 3, "memory": int(estimate_bytes(artifact))}
    assert _places({"CPU": 10.0, "memory": 100e9}, wanted) == 3
    assert _places({"CPU": 10.0, "memory": 2.5e9}, wanted) == 2
    assert _places({"memory": 100e9}, wanted) == 0
    card = artifact.model_copy(update={"device": "cuda", "processes": 2})
    assert resources_of(card)["num_gpus"] == 2
    shared = artifact.calibration.model_copy(update={"processes": 3})
    card = artifact.model_copy(update={"device": "cuda", "calibration": shared})
    assert resources_of(card)["num_gpus"] == 3


def test_an_artifact_that_no_node_has_room_for_is_said(tmp_path):
    settings = {"methods": ("cast",), "device": "cuda", "training": {"processes": 8, "batch": 8},
                "measures": ("size",)}  # fmt: skip
    plan = api.plan(runs.small(tmp_path / "r", executor="ray", **settings))
    wanted = [resources_of(measurements[0].artifact) for measurements in plan.artifacts().values()]
    node = {"CPU": 64.0, "GPU": 4.0, "memory": 500e9}

    assert [one["num_gpus"] for one in wanted] == [1, 8]
    assert " 8 cards: 1 of 2 artifacts must wait until one joins" in describe_lack(
        [node, node], wanted
    )
    assert describe_lack([node, node | {"GPU": 8.0}], wanted) == ""
    found = find_least(wanted)["num_gpus"]
    assert found == 1, "those that need one card fill the cluster, whatever others need"


def test_threads_do_not_depend_on_the_driver_s_machine(tmp_path):
    plan = api.plan(runs.small(tmp_path / "r", executor="ray", threads=None))
    assert plan.measurements[0].artifact.threads == 1
    one = api.plan(runs.small(tmp_path / "r", threads=1))
    assert [m.key for m in plan.measurements] == [m.key for m in one.measurements]


def test_a_run_without_ray_installed_is_refused_before_it_is_said_to_begin(
    tmp_path, refused, monkeypatch
):
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    said = refused("run --executor ray --methods magnitude", *runs.flags(tmp_path / "r"))
    assert said == (
        "bench: --executor ray needs the package ray: pip install 'cast-bench[ray]' on every node"
    )


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"device": "cuda:0"}, "the executor assigns them: use --device cuda or cpu"),
        ({"measures": "speed"}, "a time of one machine"),
    ],
)
def test_what_needs_one_machine_is_refused(settings, word):
    with pytest.raises(UserError, match=word):
        api.plan(Spec(executor="ray", **settings))
