"""The dense model's states are computed once, kept in the cache, checked, and bounded; no number
depends on them."""

import os
from types import SimpleNamespace

import pytest
import torch

from bench.inputs import loading
from bench.measures import dense_states, forward
from bench.measures.dense_states import DenseModel
from bench.system import cache
from helpers import runs

WINDOWS = {"windows": 5, "batch": 2}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    return runs.own_cache(tmp_path, monkeypatch) / "dense-states"


def run(results, *methods, **windows):
    """Readings and scores of each row, the costs of agreement, and how many forward passes the
    dense model made."""
    measures = ("perplexity", "agreement")
    spec = runs.small(results, measures=measures, perplexity=WINDOWS | windows)
    passes = []
    real = forward.forward_windows

    def counted(load, folder, *others):
        passes.append(folder)
        return real(load, folder, *others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forward, "forward_windows", counted)
        runs.run_here(spec, only=methods or None)
    got = runs.records(results)
    assert {r.status for r in got.values()} == {"ok"}, [r.reason for r in got.values()]
    pruned = {k[2]: r for k, r in got.items() if k[0] == "magnitude"}
    numbers = {k: (r.readings, r.items and r.items.sha256) for k, r in pruned.items()}
    states = got["magnitude", None, "agreement"].cost.get("dense_states")
    return SimpleNamespace(numbers=numbers, states=states, dense=passes.count(runs.TINY.resolve()))


@pytest.fixture(scope="module")
def wanted(tmp_path_factory):
    """What a run measures that keeps nothing."""
    with pytest.MonkeyPatch.context() as patch:
        runs.own_cache(tmp_path_factory.mktemp("other"), patch)
        return run(tmp_path_factory.mktemp("wanted"), dense_states_gb=0).numbers


def test_the_dense_row_leaves_them_behind(tmp_path, folder, wanted):
    assert not folder.exists()
    got = run(tmp_path / "r")
    assert got.numbers == wanted
    assert got.states == ["read from the cache"]
    assert got.dense == 1
    (part,) = (p for p in cache.info() if p["part"] == "dense-states")
    hidden = loading.load(runs.TINY, loading.Compute()).config.hidden_size
    assert part["entries"] == 1
    assert 0 <= part["bytes"] - 5 * 128 * hidden * 4 < 2000


@pytest.mark.full
def test_without_the_dense_row_the_first_that_needs_them_computes_them(tmp_path, wanted):
    first = run(tmp_path / "first", "magnitude")
    second = run(tmp_path / "second", "magnitude")
    assert (first.states, first.dense) == (["computed and kept", "read from the cache"], 1)
    assert (second.states, second.dense) == (["read from the cache"], 0)
    assert first.numbers == second.numbers == wanted


def test_perplexity_alone_keeps_nothing(tmp_path, folder):
    runs.run_here(runs.small(tmp_path / "r", measures=("perplexity",)), only=["dense"])
    assert not folder.exists()


@pytest.mark.full
@pytest.mark.parametrize("at", ["last", pytest.param("digests", marks=pytest.mark.full)])
def test_a_damaged_file_is_found_and_computed_anew(tmp_path, folder, wanted, at):
    run(tmp_path / "first")
    (entry,) = folder.iterdir()
    files = sorted(entry.glob("*.safetensors"))
    assert len(files) == 3
    file = {"last": files[-1], "digests": entry / "sha256.json"}[at]
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)

    got = run(tmp_path / "second", "magnitude")

    assert got.numbers == wanted
    assert got.dense == 1
    assert got.states[0].startswith(f"damaged in the cache ({entry}")
    assert "computed and kept" in got.states


def test_what_is_larger_than_the_bound_is_not_kept(tmp_path, folder, wanted):
    got = run(tmp_path / "r", dense_states_gb=0.0001)
    assert got.numbers == wanted
    assert got.dense == 2
    assert "computed, not kept" in got.states[0]
    assert "perplexity.dense_states_gb=0.0001" in got.states[0]
    assert not list(folder.glob("*"))


@pytest.mark.full
def test_what_was_not_used_for_longest_goes_first(tmp_path, folder):
    for name, age in (("old", 3), ("older", 4), ("used", 5)):
        (folder / name).mkdir(parents=True)
        (folder / name / "file").write_bytes(bytes(150_000))
        os.utime(folder / name, (10**9 - 1000 * age,) * 2)
    with cache.in_use("used"):
        run(tmp_path / "r", dense_states_gb=0.00075)  # 328 kB are needed, so one of the two must go
    assert {p.name for p in folder.iterdir()} > {"old", "used"}
    assert not (folder / "older").exists()


def states(**inputs):
    return DenseModel({"model": "a"} | inputs, lambda: torch.nn.Linear(4, 8), 10**9)


BATCHES = [torch.arange(24.0).view(2, 3, 4), torch.arange(12.0).view(1, 3, 4)]


def test_two_that_write_at_once_leave_one(folder):
    with states().states("t", 2) as one, states().states("t", 2) as other:
        writing = one.keep(BATCHES)
        next(writing)
        assert all(map(torch.equal, list(other.keep(BATCHES)), BATCHES))
        assert next(writing) is BATCHES[1]
        assert next(writing, None) is None
        for reading in (one, other):
            assert all(map(torch.equal, reading.open(), BATCHES))

    assert len(list(folder.iterdir())) == 1
    assert not list((folder.parent / "tmp").iterdir())


def test_broken_off_it_leaves_nothing(folder):
    with states().states("t", 2) as one:
        writing = one.keep(BATCHES)
        next(writing)
        writing.close()
        assert one.open() is None
    assert not folder.exists()
    assert not list((folder.parent / "tmp").iterdir())


def test_read_states_are_memory_of_their_own():
    """Aligned like a model's output, and no view of the file."""
    with states().states("t", 2) as one:
        list(one.keep(BATCHES))
        (first, second) = one.open()
    assert first.data_ptr() % 64 == second.data_ptr() % 64 == 0


def test_the_key_moves_with_all_that_can_change_a_bit(monkeypatch):
    def key(token_digest="t", batch=2, **inputs):
        with states(**inputs).states(token_digest, batch) as one:
            return one.folder.name

    keys = {key(), key("u"), key(batch=3), key(model="b"), key(dtype="bfloat16"), key(stream=True)}
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        keys.add(key())
    finally:
        torch.set_num_threads(threads)
    monkeypatch.setattr(dense_states.provenance, "versions", lambda: {"torch": "0"})
    keys.add(key())
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    keys.add(key())
    monkeypatch.setattr(dense_states, "digest_source", lambda *_: "other code")
    keys.add(key())

    assert len(keys) == 10
    assert key() == key()
