"""Training as part of a run: its notes, its divergence, its keys."""

import pytest

from bench.planning import plan
from helpers import runs

SMALL = {"tokens": 40 * 8 * 32, "batch": 8, "seqlen": 32}


pytestmark = pytest.mark.usefixtures("cache")


def spec(results, **changes):
    given = {"methods": ("cast:lr=1e-3",), "measures": ("perplexity",), "training": SMALL} | changes
    return runs.small(results, **given)


@pytest.mark.full
def test_divergence_is_a_row_that_says_where(tmp_path):
    runs.run_here(spec(tmp_path / "r", methods=("dense-ft:lr=10:grad_clip=0:warmup=0",)))
    records = runs.records(tmp_path / "r")
    row = records["dense-ft:lr=10:grad_clip=0:warmup=0", 0, "perplexity"]
    assert row.status == "diverged"
    assert "dense-ft at step" in row.reason and "last good checkpoint" in row.reason
    assert records["dense", None, "perplexity"].status == "ok"


def test_notes_and_costs_are_in_the_record(tmp_path):
    asked = spec(tmp_path / "r", measures=("size",), training=SMALL | {"tokens": 1024})
    runs.run_here(asked, only=asked.methods)
    record = runs.records(tmp_path / "r")["cast:lr=1e-3", 0, "pattern"]
    assert record.notes["training"]["tokens"] == record.cost["training_tokens"] == 1024
    assert record.notes["training"]["unique_tokens"] <= 1024
    assert record.cost["training_tokens_per_s"] > 1024 / record.cost["build_s"]
    assert record.identity.labels()["training"] == "wiki-mini@32x8, 1,024 tokens"
    assert record.readings[0].value == 0


def test_validation_split_is_another_protocol(tmp_path):
    read = {"windows": 4, "split": "validation"}
    planned = plan.make_plan(spec(tmp_path, methods=("magnitude",), perplexity=read))
    protocols = {m.identity.protocol.label for m in planned.measurements}
    assert (
        "wiki-mini-validation@128x4 spread" in protocols
        and "wiki-mini@128x4 spread" not in protocols
    )


def test_the_interval_of_checkpoints_is_no_part_of_a_key(tmp_path):
    one, two = (
        {m.key for m in plan.make_plan(spec(tmp_path, training=SMALL | more)).measurements}
        for more in ({}, {"checkpoint_s": 7})
    )
    assert one == two
