"""The processes that share a stage, as the first of them sees the others."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from bench import api
from bench.execution import nodes, ranks
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
