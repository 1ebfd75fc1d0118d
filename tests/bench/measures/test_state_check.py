"""A model that computes NaN has no accuracy. The most likely token of NaN is the first, so it would
have one."""

import pytest
import torch

from bench.inputs import loading
from bench.inputs.task_yaml import read_task
from bench.measures import packed_scoring
from bench.measures.continuation import Continuation
from bench.measures.zeroshot import Zeroshot
from helpers import runs
from helpers.measuring import context_of
from methods.contract.errors import Diverged
from methods.contract.method import Compute

pytestmark = pytest.mark.usefixtures("cache")


def overflowing(value=float("nan")):
    """A model with finite weights but one, as when its activations leave the range of float16."""
    model = loading.load(runs.TINY, Compute())
    with torch.no_grad():
        model.base_model.norm.weight[0] = value
    return model


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("obstacle", [None, "attention of another kind"])
def test_accuracy_of_nan_is_none(value, obstacle, tmp_path, monkeypatch):
    if obstacle:
        monkeypatch.setattr(packed_scoring, "find_obstacle", lambda _: obstacle)
    version = read_task("wiki_continuation", "").version
    measure = Zeroshot("wiki_continuation", "", version, "0.4", 16, 1024, 3)
    with pytest.raises(Diverged, match="states of the model are NaN"):
        measure.read(lambda: overflowing(value), context_of(tmp_path))


@pytest.mark.parametrize(("dense", "said"), [(False, "of the model"), (True, "of the dense model")])
def test_text_of_nan_agrees_with_none(dense, said, tmp_path):
    changes = {"load_dense": overflowing} if dense else {}
    with pytest.raises(Diverged, match=f"states {said} are NaN"):
        Continuation("wiki-mini", 2).read(overflowing, context_of(tmp_path, **changes))
