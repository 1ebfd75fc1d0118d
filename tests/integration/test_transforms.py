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


def test_rows_of_transforms_and_of_what_follows_them(got):
    dense, sparse = perplexity(got, "dense"), perplexity(got, "sparsegpt")

    assert perplexity(got, "rotate") == pytest.approx(dense, rel=1e-3)
    errors = got["rotate", "none", "pattern"].notes["function_error"]
    assert set(errors) == {"random_tokens", "text"}
    assert all(0 < error < 1e-4 for error in errors.values())
    assert perplexity(got, "permute + wanda") < perplexity(got, "wanda")
    # Reconstruction compares hidden states, so its teacher is the rotated model.
    assert perplexity(got, "rotate + sparsegpt + recon:epochs=2") < sparse
    # Four windows do not tell in which direction.
    assert 0 < abs(perplexity(got, "dense", "kv4") / dense - 1) < 0.2


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize(
    ("tolerance", "roundings", "most", "said"),
    [
        (None, None, None, "the logits changed by"),
        (0.0, None, None, "the logits changed by"),  # more than rounding alone, which is measured
        (0.0, 1e9, 0.01, "may change by 0.01"),
    ],
)
def test_a_transform_that_changes_the_logits_is_refused(
    tolerance, roundings, most, said, tmp_path, monkeypatch
):
    if tolerance is not None:
        monkeypatch.setitem(verify.FUNCTION_TOLERANCE, "float32", tolerance)
    if roundings:
        monkeypatch.setattr(build, "ROUNDINGS", roundings)
        monkeypatch.setattr(build, "MOST_CHANGED", most)
    found = runs.measured(tmp_path / "r", methods=("rotate", "bends"), measures=("size",))

    assert found["rotate", None, "size"].status == "ok", found["rotate", None, "size"].reason
    reason = found["bends", None, "size"].reason
    assert said in reason and 0 < float(reason.rpartition(" ")[2]) <= (most or 1e-3)
