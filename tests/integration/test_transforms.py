"""Transforms in a run: first in a chain, checked when made, under what refines a mask."""

import pytest

from bench import verify
from bench.execution import build
from bench.results.store import ReadOnlyStore
from helpers import plugins, runs

BENDS = (
    "model.model.norm.weight.mul_(1.1)\nreturn Outcome(model, "
    'changed=frozenset({"model.norm.weight"}))'
)
"""It claims to keep the function, and does not."""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    claim = {"bends": "info: ClassVar[MethodInfo] = MethodInfo(does=Does.KEEPS_FUNCTION)"}
    return plugins.install(tmp_path_factory.mktemp("site"), "bending", {"bends": BENDS}, claim)


@pytest.fixture(scope="module")
def got(tmp_path_factory):
    """Records of one run, with the rows of transforms and of what follows them."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("transforms")
        runs.own_cache(folder, patch)
        refined = "recon:epochs=2:from=rotate+sparsegpt"
        methods = ("rotate", "sparsegpt", refined, "wanda", "wanda:from=permute")
        spec = runs.small(folder / "r", methods=methods, measures=("perplexity",))
        runs.run_here(spec)
        rounded = spec.model_copy(update={"methods": (), "quantizers": ("kv4",)})
        runs.run_here(rounded, only=["dense"])
        found = {}
        for record in ReadOnlyStore(spec.results):
            one = record.identity
            found[one.method, one.quantizer, one.measure] = record
        return found


def perplexity(got, row, quantizer="none"):
    record = got[row, quantizer, "perplexity"]
    assert record.status == "ok", record.reason
    return record.readings[0].value


def test_a_transform_keeps_the_function_and_its_record_says_how_well(got):
    assert perplexity(got, "rotate") == pytest.approx(perplexity(got, "dense"), rel=1e-3)
    errors = got["rotate", "none", "pattern"].notes["function_error"]
    assert set(errors) == {"random_tokens", "text"}
    assert all(0 < error < 1e-4 for error in errors.values())


def test_pruning_errs_less_after_a_permutation(got):
    assert perplexity(got, "permute + wanda") < perplexity(got, "wanda")


def test_the_teacher_of_a_later_stage_is_the_transformed_model(got):
    """Reconstruction compares hidden states, so another basis would teach nothing."""
    assert perplexity(got, "rotate + sparsegpt + recon:epochs=2") < perplexity(got, "sparsegpt")


def test_rounded_keys_and_values_change_the_numbers_of_a_dense_row(got):
    assert 0 < perplexity(got, "dense", "kv4") / perplexity(got, "dense") - 1 < 0.2


@pytest.mark.usefixtures("world")
def test_a_transform_that_changes_the_logits_is_refused(tmp_path):
    got = runs.measured(tmp_path / "r", methods=("bends",), measures=("size",))
    assert "the logits changed by" in got["bends", None, "size"].reason


@pytest.mark.usefixtures("world")
def test_where_rounding_alone_changes_the_logits_by_more_a_transform_may_too(tmp_path, monkeypatch):
    monkeypatch.setitem(verify.FUNCTION_TOLERANCE, "float32", 0.0)
    found = runs.measured(tmp_path / "r", methods=("rotate", "bends"), measures=("size",))

    assert found["rotate", None, "size"].status == "ok", found["rotate", None, "size"].reason
    limit = float(found["bends", None, "size"].reason.rpartition(" ")[2])
    assert 0 < limit < 1e-4


@pytest.mark.usefixtures("world")
def test_however_much_rounding_does_a_transform_may_not_change_all(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "ROUNDINGS", 1e9)
    monkeypatch.setitem(verify.FUNCTION_TOLERANCE, "float32", 0.0)
    monkeypatch.setattr(build, "MOST_CHANGED", 0.01)
    got = runs.measured(tmp_path / "r", methods=("bends",), measures=("size",))

    assert "may change by 0.01" in got["bends", None, "size"].reason
