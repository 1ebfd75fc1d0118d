"""Training as part of a run: resumed, diverged, refused."""

import pytest

from bench.execution import events
from bench.planning import plan
from bench.results.store import ReadOnlyStore
from bench.system import cache
from bench.system.cache import cache_dir
from helpers import runs
from methods.training import trainer

SMALL = {"tokens": 40 * 8 * 32, "batch": 8, "seqlen": 32}


pytestmark = pytest.mark.usefixtures("cache")


def spec(results, **changes):
    given = {"methods": ("cast:lr=1e-3",), "measures": ("perplexity",), "training": SMALL} | changes
    return runs.small(results, **given)


class Killed(BaseException):
    pass


@pytest.mark.slow
def test_a_killed_training_goes_on_and_the_records_are_the_same(tmp_path, monkeypatch):
    runs.run_here(spec(tmp_path / "straight"))
    cache.gc(everything=False, days=0)  # else the second run finds the model made
    training = SMALL | {"checkpoint_s": 0}
    real = events.Events.advance

    def kill(self, done, total, **figures):
        if self.phase.startswith("cast") and done == 30:
            raise Killed
        real(self, done, total, **figures)

    monkeypatch.setattr(events.Events, "advance", kill)
    with pytest.raises(Killed):
        runs.run_here(spec(tmp_path / "broken", training=training))
    monkeypatch.setattr(events.Events, "advance", real)
    (left,) = (cache_dir() / "training").iterdir()
    assert (left / "step-29/about.json").exists()
    began = []
    once = trainer.Trainer._resume
    monkeypatch.setattr(
        trainer.Trainer, "_resume", lambda self, optimizer: began.append(once(self, optimizer)) or began[-1]
    )

    runs.run_here(spec(tmp_path / "broken"))

    assert [step for step, _ in began] == [29]
    assert list((cache_dir() / "training").iterdir()) == []
    one, two = (runs.records(tmp_path / name) for name in ("straight", "broken"))
    assert one.keys() == two.keys()
    assert all(one[k].same() == two[k].same() for k in one)


@pytest.mark.full
def test_divergence_is_a_row_that_says_where(tmp_path):
    runs.run_here(spec(tmp_path / "r", methods=("dense-ft:lr=10:grad_clip=0:warmup=0",)))

    records = runs.records(tmp_path / "r")
    (row,) = [r for (method, _, measure), r in records.items() if "lr=10" in method and measure == "perplexity"]
    assert row.status == "diverged"
    assert "dense-ft at step" in row.reason and "last good checkpoint" in row.reason
    assert records["dense", None, "perplexity"].status == "ok"


def test_notes_and_costs_are_in_the_record(tmp_path):
    runs.run_here(spec(tmp_path / "r", measures=("size",), training=SMALL | {"tokens": 1024}))

    record = runs.records(tmp_path / "r")["cast:lr=1e-3", 0, "pattern"]
    assert record.notes["training"]["tokens"] == record.cost["training_tokens"] == 1024
    assert record.notes["training"]["unique_tokens"] <= 1024
    assert record.identity.labels()["training"] == "wiki-mini@32x8, 1,024 tokens"
    assert record.readings[0].value == 0


@pytest.mark.full
def test_validation_split_is_another_protocol(tmp_path):
    runs.run_here(spec(tmp_path / "r", methods=("magnitude",), perplexity={"windows": 4, "split": "validation"}))

    records = [r for r in ReadOnlyStore(tmp_path / "r") if r.identity.measure == "perplexity"]
    assert {r.identity.protocol.label for r in records} == {"wiki-mini-validation@128x4"}


def test_the_interval_of_checkpoints_is_no_part_of_a_key(tmp_path):
    one, two = (
        {m.key for m in plan.make_plan(spec(tmp_path, training=SMALL | more)).measurements}
        for more in ({}, {"checkpoint_s": 7})
    )

    assert one == two
