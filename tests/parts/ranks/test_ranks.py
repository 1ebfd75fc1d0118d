"""The processes that share a stage, as the first of them sees the others."""

import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import psutil
import pytest

from bench import api
from bench.parts.ranks import nodes, ranks
from bench.results.store import ReadOnlyStore
from helpers import runs


def test_a_process_that_has_done_its_part_and_is_slow_to_end_fails_nothing(
    tmp_path, monkeypatch, cache
):
    killed = []

    def wait(timeout=None):
        if timeout:
            raise subprocess.TimeoutExpired("a worker", timeout)
        return -9

    slow = SimpleNamespace(wait=wait, kill=lambda: killed.append(True), stdin=None)
    monkeypatch.setattr(ranks, "_make_store", lambda *_: SimpleNamespace(port=1))
    monkeypatch.setattr(ranks, "_start", lambda *_, **__: slow)
    monkeypatch.setattr(ranks, "_join", lambda *_: None)
    for name in ("barrier", "destroy_process_group"):
        monkeypatch.setattr(ranks.dist, name, lambda: None)
    draw = {"sequences": 4, "processes": 2}
    asked = {"methods": ("wanda",), "measures": ("size",), "calibration": draw}
    plan = api.plan(runs.small(tmp_path / "r", **asked))
    artifact = next(m.artifact for m in plan.measurements if m.artifact.ranks == 2)
    with ranks.start_ranks(artifact):
        assert not killed
    assert killed


def test_a_rank_has_memory_in_expandable_segments(monkeypatch, capfd):
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    task = SimpleNamespace(model_dump_json=lambda: "")
    monkeypatch.setattr(ranks, "RankTask", lambda **_: task)
    monkeypatch.setattr(ranks, "dict", lambda _: {}, raising=False)
    print_it = "import os; print(os.environ['PYTORCH_ALLOC_CONF'])"

    worker = ranks._start([sys.executable, "-c", print_it], task, rank=1, card=1)

    assert worker.wait() == 0
    assert capfd.readouterr().err.strip() == "expandable_segments:True"


def test_a_first_node_that_is_gone_between_two_questions_is_a_sentence(monkeypatch):
    def get(key):
        raise RuntimeError("Connection reset by peer")

    monkeypatch.setattr(
        nodes, "_open", lambda *_: SimpleNamespace(check=lambda keys: True, get=get)
    )
    place = nodes.Place(1, 0, "first", 29500, holds_store=False)

    with pytest.raises(ConnectionError, match="the first node is gone"):
        next(nodes.follow(place))


def test_a_helper_that_dies_is_a_failed_row(tmp_path, monkeypatch, cache):
    command = [sys.executable, "-c", "import sys; sys.exit(3)"]
    monkeypatch.setattr(ranks, "start_ranks", partial(ranks.start_ranks, command=command))
    training = {"tokens": 4096, "batch": 8, "seqlen": 32, "processes": 2}
    asked = {"methods": ("cast",), "measures": ("perplexity",), "training": training}
    runs.run_here(runs.small(tmp_path / "r", **asked), only=("cast",))
    (record,) = [r for r in ReadOnlyStore(tmp_path / "r") if r.identity.measure == "perplexity"]
    assert record.status == "failed"
    assert "rank 1 ended with code 3 before it began" in record.reason


def test_processes_of_one_machine_meet_where_no_other_machine_can_come():
    store = ranks._make_store(ranks.HOST, 2)
    listening = [
        c.laddr for c in psutil.Process().net_connections("tcp") if c.status == psutil.CONN_LISTEN
    ]
    assert [ip for ip, port in listening if port == store.port] == ["127.0.0.1"]
