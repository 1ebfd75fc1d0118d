"""`calibration.processes`: from the plan to the record."""

import sys
from functools import partial

import psutil
import pytest

from bench import api
from bench.parts.ranks import ranks
from bench.planning import refusal
from bench.planning.memory import estimate_bytes, model_bytes
from bench.planning.work import count_operations
from bench.results import reproduce
from bench.results.store import ReadOnlyStore
from helpers import runs
from methods.contract.method import LIBRARY_BYTES

SHARED = {"sequences": 4, "processes": 2}


def artifacts(calibration, **changes):
    changes = {"methods": ("wanda",), "calibration": calibration} | changes
    plan = api.plan(runs.small("r", **changes))
    return {m.artifact.method: m.artifact for m in plan.measurements}


def test_one_process_is_no_part_of_a_key():
    one, same, two = (
        artifacts(c) for c in ({"sequences": 4}, {"sequences": 4, "processes": 1}, SHARED)
    )
    assert one["wanda"].key == same["wanda"].key != two["wanda"].key
    assert "processes" not in one["wanda"].key_inputs()["calibration"]
    assert one["dense"].key == two["dense"].key


def test_what_needs_no_calibration_is_not_refused():
    made = artifacts(SHARED, methods=("magnitude", "cast"))
    assert {artifact.ranks for artifact in made.values()} == {1}


def test_each_process_has_its_own_model_in_memory(monkeypatch):
    wanda = artifacts({"sequences": 4, "processes": 3})["wanda"]
    own = LIBRARY_BYTES + model_bytes(wanda)
    assert estimate_bytes(wanda) == 3 * own
    monkeypatch.setattr(refusal, "memory_bytes", lambda: 2.5 * own / refusal.SHARE)
    assert "in 3 processes" in refusal.find_problem(wanda)
    assert "--set calibration.processes=2, or --set stream=true" in refusal.find_problem(wanda)
    assert not refusal.find_problem(wanda.model_copy(update={"stream": True}))


def test_on_cards_each_process_has_its_own_and_its_part_of_the_time():
    one, three = (artifacts({"sequences": 6, "processes": n})["wanda"] for n in (1, 3))
    cards = [artifact.model_copy(update={"device": "cuda"}) for artifact in (one, three)]

    assert [cards[1].device_of(rank) for rank in range(3)] == ["cuda:0", "cuda:1", "cuda:2"]
    plan = api.plan(runs.small("r", methods=("wanda",), calibration={"sequences": 6}))
    first = next(m for m in plan.measurements if m.artifact.method == "wanda")
    alone, shared = (count_operations([[first.model_copy(update={"artifact": a})]]) for a in cards)
    of_dense = [m for m in plan.measurements if m.artifact.method == "dense"]
    dense = next(m for m in of_dense if m.measure == first.measure)
    measuring = count_operations([[dense]])
    assert alone - measuring == pytest.approx(3 * (shared - measuring))


@pytest.mark.parametrize(
    ("method", "quantizers"),
    [
        ("wanda", ("none",)),
        pytest.param("sparsegpt", ("none", "int4-gptq"), marks=pytest.mark.full),
    ],
)
def test_a_run_of_two_processes_is_a_run_of_one(method, quantizers, tmp_path, monkeypatch):
    """Stages of both kinds are shared. A second run finds everything made."""
    others = set(psutil.Process().children())
    runs.own_cache(tmp_path, monkeypatch)
    found = {}
    for processes in (1, 2):
        asked = {"methods": (method,), "quantizers": quantizers, "measures": ("perplexity",)}
        asked["calibration"] = SHARED | {"processes": processes}
        spec = runs.small(tmp_path / str(processes), **asked)
        runs.run_here(spec, only=(method,))
        records = ReadOnlyStore(tmp_path / str(processes))
        found[processes] = {(r.identity.quantizer, r.identity.measure): r for r in records}
    one, two = found[1], found[2]

    assert len(two) == 2 * len(quantizers)
    assert [r.reason for r in (*one.values(), *two.values()) if r.status != "ok"] == []
    for kind, record in one.items():
        assert two[kind].key != record.key and two[kind].identity == record.identity
    before, after = (of["none", "perplexity"].readings[0].value for of in (one, two))
    assert after == pytest.approx(before, rel=1e-5)
    one, two = (of[quantizers[-1], "perplexity"] for of in (one, two))
    assert "--set calibration.processes=2" in reproduce.command([two])
    assert "processes" not in reproduce.command([one])
    assert not set(psutil.Process().children()) - others, "a process is left"
    monkeypatch.setattr(ranks, "start_ranks", None)
    assert {event["known"] for event in runs.run_here(spec, only=(method,))} == {True}


FAULTY = """
import os, signal
from methods.workshop.pruning.sharing import Sharing
sent = []
def send_(self, tensor, owner, send_=Sharing.send_):
    sent.append(owner)
    if len(sent) == 10:
        {fault}
    send_(self, tensor, owner)
Sharing.send_ = send_
from bench.parts.ranks.rank_worker import main
main()
"""


@pytest.mark.full
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "the process of rank 1 ended with code -9"),
        ("raise FloatingPointError('odd')", "rank 1: FloatingPointError: odd"),
    ],
)
def test_a_process_that_ends_in_the_middle_is_a_failed_row(fault, reason, tmp_path, monkeypatch):
    others = set(psutil.Process().children())
    runs.own_cache(tmp_path, monkeypatch)
    command = [sys.executable, "-c", FAULTY.format(fault=fault)]
    monkeypatch.setattr(ranks, "start_ranks", partial(ranks.start_ranks, command=command))
    spec = runs.small(tmp_path / "r", methods=("wanda",), measures=("size",), calibration=SHARED)
    runs.run_here(spec, only=("wanda",))

    found = list(ReadOnlyStore(tmp_path / "r"))
    assert {r.status for r in found} == {"failed"}
    assert all(r.reason.startswith(f"RankFailed: {reason}") for r in found), found
    assert not set(psutil.Process().children()) - others, "a process is left"
