"""Tokens and operations of a plan."""

import pytest

from bench import api
from bench.planning.memory import estimate_bytes
from bench.planning.work import count_operations, count_work
from helpers import runs

pytestmark = pytest.mark.usefixtures("cache")


def tokens_of(spec):
    made, found = set(), {}
    for some in api.plan(spec).artifacts().values():
        artifact = some[0].artifact
        row = artifact.method.split(":")[0], artifact.quantizer
        found[row] = count_work(artifact, some, made).tokens
    return found


INT8 = "int8:embed=int8"


def test_a_stage_that_several_share_is_counted_once(tmp_path):
    def tokens(*methods, quantizers=("none",)):
        chosen = {"methods": methods, "quantizers": quantizers, "measures": ("size",)}
        return tokens_of(runs.small(tmp_path / "r", **chosen))

    alone = tokens("sparsegpt")["sparsegpt", "none"]
    both = tokens("sparsegpt", "finetune:from=sparsegpt", quantizers=("none", "int8"))
    assert both["sparsegpt", "none"] == alone > 0
    assert both["sparsegpt", INT8] == both["sparsegpt + finetune", INT8] == 0
    tuned = "sparsegpt + finetune", "none"
    assert both[tuned] == tokens("finetune:from=sparsegpt")[tuned] - alone


def test_measures_of_the_same_windows_count_their_tokens_once():
    one, both, others = (
        tokens_of(runs.small("r", measures=measures))["dense", "none"]
        for measures in (("perplexity",), ("perplexity", "agreement"), ("perplexity", "zeroshot"))
    )
    assert one == both == 4 * 128 < others


@pytest.mark.parametrize(
    ("device", "shared", "parts"),
    [
        ("cuda", {"processes": 4, "nodes": 2}, 4),
        ("cpu", {"processes": 4}, 1),
        ("cpu", {"processes": 4, "nodes": 2}, 2),
    ],
)
def test_a_training_is_shared_by_cards_and_by_machines_with_processors(device, shared, parts):
    plan = api.plan(runs.small("r", methods=("cast",), measures=("pattern",)))
    (trained,) = [m for m in plan.measurements if m.artifact.training]
    operations = []
    for changes in ({}, shared):
        artifact = trained.artifact.model_copy(update={"device": device} | changes)
        operations.append(count_operations([[trained.model_copy(update={"artifact": artifact})]]))

    assert operations[1] == pytest.approx(operations[0] / parts, rel=0.01)


def test_a_tuning_counts_its_steps_and_its_second_model():
    quantizers = ("tcq3", "tcq3:tune=4", "tcq3:tune=8")
    plan = api.plan(runs.small("r", methods=("dense",), quantizers=quantizers, measures=("size",)))
    costs = []
    for some in plan.artifacts().values():
        artifact = some[0].artifact
        costs.append((count_work(artifact, some, set()).operations, estimate_bytes(artifact)))
    (plain, model), (four, tuned), (eight, longer) = costs

    sizes, steps = artifact.sizes, 4 * artifact.calibration.seqlen
    assert eight - four == sizes.parameters * 40 * steps
    assert four - plain > eight - four
    assert tuned == longer > model + 8 * sizes.parameters
