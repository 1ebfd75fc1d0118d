"""Measures that read the same windows share a forward pass, those of somebody else too; a fault
costs what it must."""

import ast
import math
import textwrap
from contextlib import contextmanager
from functools import partial

import pytest
from transformers.models.llama.modeling_llama import LlamaModel

from bench.execution import measure
from bench.measures import contract, forward
from helpers import plugins, runs

OF_WINDOWS = contract.__doc__.partition("A measure that reads")[2].partition("\n\nA run fills in")[
    0
]
ENTROPY = textwrap.dedent(OF_WINDOWS[OF_WINDOWS.index("    from dataclasses") :])
ALONE = (
    'return Readings((Reading("logit", float(model()(torch.zeros(1, 1).long()).logits[0, 0, 0]), '
    '"1", ""),))'
)
"""It knows of no windows, and runs the model by itself."""
OTHERS = """
from dataclasses import dataclass
from typing import ClassVar

from bench.measures.contract import Readings
from bench.measures.windowed import Windowed
from bench.results.record import Reading

@dataclass(frozen=True)
class Empty(Windowed):
    name: ClassVar[str] = "empty"

    def reader(self, windows, context):
        return self

    def take(self, part):
        pass

    def finish(self):
        pass

@dataclass(frozen=True)
class Faulty(Empty):
    name: ClassVar[str] = "faulty"

    def take(self, part):
        raise RuntimeError("cannot read this")

@dataclass(frozen=True)
class Overwriting(Empty):
    name: ClassVar[str] = "overwriting"
    beside_dense: ClassVar[bool] = True

    def take(self, part):
        for tensor in (part.logits, part.dense, part.targets):
            tensor.zero_()

    def finish(self):
        return Readings((Reading("nothing", 0.0, "1", ""),))
"""
KINDS = ("Faulty", "Empty", "Overwriting")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    plugins.install(folder, "by_itself", {"alone": ALONE}, kind="measures")
    runs.distribution(folder, "entropy", ENTROPY, measures={"entropy": "entropy:Entropy"})
    others = {kind.lower(): f"others:{kind}" for kind in KINDS}
    return runs.distribution(folder, "others", OTHERS, measures=others)


pytestmark = pytest.mark.usefixtures("world")


@contextmanager
def counting_forwards():
    """Yield a list that receives the number of tokens of each forward pass."""
    seen, real = [], LlamaModel.forward

    def counted(self, input_ids=None, **others):
        seen.append(input_ids.numel())
        return real(self, input_ids=input_ids, **others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LlamaModel, "forward", counted)
        yield seen


def run(results, *measures, **changes):
    return runs.measured(results, measures=(*measures, "perplexity", "agreement"), **changes)


@pytest.fixture(scope="module")
def shared(site, tmp_path_factory):
    """Records of all measures, the tokens of each forward pass, and costs by a clock that advances
    an hour at each call."""
    folder = tmp_path_factory.mktemp("shared")
    with pytest.MonkeyPatch.context() as patch:
        for _ in runs.world(site, folder, patch):
            ticks = iter(range(0, 10**9, 3600))
            patch.setattr(measure.time, "monotonic", partial(next, ticks))
            with counting_forwards() as forwards:
                return run(folder / "r", "entropy", "alone"), forwards


def numbers(records, *measures):
    found = {k: r for k, r in records.items() if k[2] in measures}
    return {k: (r.readings, r.token_digest, r.items.sha256) for k, r in found.items()}


def test_the_example_imports_public_modules_alone():
    modules = {n.module for n in ast.walk(ast.parse(ENTROPY)) if isinstance(n, ast.ImportFrom)}
    assert {m for m in modules if m.startswith(("bench", "methods"))} == {
        "bench.measures.contract", "bench.measures.windowed", "bench.measures.window_pass",
        "bench.results.record",
    }  # fmt: skip


def test_measures_of_the_same_windows_share_a_pass(shared):
    """One pass over the four windows for each model. A measure without windows runs the model by
    itself."""
    got, forwards = shared
    assert sorted(forwards) == [1, 1, 4 * 128, 4 * 128]
    assert {r.status for r in got.values()} == {"ok"}, [r.reason for r in got.values()]
    entropy, perplexity = (got["magnitude", None, m] for m in ("entropy", "perplexity"))
    assert 2 < entropy.readings[0].value < 6
    assert (entropy.token_digest, entropy.items.rows) == (perplexity.token_digest, 4)
    assert entropy.identity.protocol == perplexity.identity.protocol
    assert len({r.key for r in got.values()}) == len(got)


@pytest.mark.parametrize("name", [pytest.param("perplexity", marks=pytest.mark.full), "agreement"])
def test_each_measured_by_itself_gives_the_same(tmp_path, shared, name):
    settings = {"windows": 4, "dense_states_gb": 0}
    alone = runs.measured(tmp_path / "r", measures=(name,), perplexity=settings)
    assert numbers(shared[0], name) == numbers(alone, name)
    assert {k: shared[0][k].key for k in alone} == {k: r.key for k, r in alone.items()}


def test_shared_seconds_are_counted_once(shared):
    got = {k[2]: r.cost for k, r in shared[0].items() if k[0] == "magnitude"}
    three = [got[name] for name in ("entropy", "perplexity", "agreement")]
    # Whole hours; each is rounded, and the sum may be just below one.
    assert math.remainder(sum(c["wall_s"] for c in three), 3600) == pytest.approx(0, abs=0.01)
    assert len({c["shared_s"] for c in three}) == 1
    assert three[0]["shared_with"] == ["perplexity", "agreement"]
    assert all(c["shared_s"] / 3 <= c["wall_s"] < c["shared_s"] for c in three)
    assert got["alone"].keys() == {"wall_s", "peak_bytes", "tokens"}


def test_a_reader_costs_no_other_record(tmp_path, shared):
    """They come first, and fail or overwrite what they read."""
    reasons = {
        "faulty": "RuntimeError: cannot read this",
        "empty": "TypeError: finish() returned NoneType, not Readings",
        "overwriting": "",
    }
    got = run(tmp_path / "r", *reasons)

    assert {(k[2], r.reason) for k, r in got.items() if k[2] in reasons} == set(reasons.items())
    assert all(r.status == "ok" for k, r in got.items() if k[2] not in ("faulty", "empty"))
    measures = "perplexity", "agreement"
    assert numbers(got, *measures) == numbers(shared[0], *measures)


def test_a_pass_ends_when_every_reader_has_failed(tmp_path):
    """There are two batches of two windows."""
    windows = {"windows": 4, "batch": 2}
    with counting_forwards() as forwards:
        runs.run_here(runs.small(tmp_path / "r", measures=("faulty",), perplexity=windows))
    assert forwards == [2 * 128] * 2


def break_forward(monkeypatch, where):
    """where: of the folder of the model whose pass fails."""
    real = forward.forward_windows

    def broken(load, folder, *others):
        if where(folder):
            raise RuntimeError("no such forward")
        return real(load, folder, *others)

    monkeypatch.setattr(forward, "forward_windows", broken)


@pytest.mark.parametrize(
    ("of_dense", "failed"),
    [
        (False, {("magnitude", m) for m in ("perplexity", "agreement", "entropy")}),
        (True, {("dense", "perplexity"), ("dense", "entropy"), ("magnitude", "agreement")}),
    ],
)
def test_a_fault_in_the_forward_pass_costs_all_that_share_it(
    tmp_path, monkeypatch, of_dense, failed
):
    """One in the dense model's costs what compares with it."""
    break_forward(monkeypatch, lambda folder: (folder == runs.TINY.resolve()) == of_dense)
    got = run(tmp_path / "r", "entropy")
    found = {k: r for k, r in got.items() if r.status == "failed"}
    assert {(method, measure) for method, _, measure in found} == failed
    assert {r.reason for r in found.values()} == {"RuntimeError: no such forward"}
    assert all("broken" in r.traceback for r in found.values())
