"""Width against plain loops, and what may follow it."""

import pytest
import torch

from baselines.width import Width
from bench import api
from bench.planning.spec import Spec
from bench.results.store import ReadOnlyStore
from helpers import runs
from helpers.models import build, job_for
from methods.errors import UserError
from methods.smaller import reader
from methods.targets import family_of


def naive(model, tokens, heads):
    """Importance of units and heads of each block, sequence by sequence and token by token, from one pass of the model."""
    family = family_of(model.config.to_dict())
    seen = []
    for block in model.get_submodule(family.blocks):
        for key in (family.width.units, *family.width.heads[:1]):
            module = block.get_submodule(reader(family, key))
            module.register_forward_pre_hook(lambda _, args: seen.append(args[0].double().view(*tokens.shape, -1)))
    model(input_ids=tokens, use_cache=False)
    out = []
    for x in seen:
        total = 0.0
        for sequence in x:
            total = total + sum(part.abs() for part in sequence).div(len(sequence)).square()
        norms = 0.0
        for sequence in x:
            each = [torch.stack([h.square().sum().sqrt() for h in token.chunk(heads)]) for token in sequence]
            norms = norms + (sum(each) / len(each)).square()
        out.append((total.sqrt(), norms.sqrt()))
    return out


@pytest.mark.parametrize(("family", "heads"), [("llama", 1), ("gpt2", 0)])
@torch.inference_mode()
def test_most_important_parts_are_kept(family, heads):
    model = build(family)
    job = job_for(model)

    outcome = Width(drop="25%", heads=heads).apply(model, job)

    found = naive(model, job.calibration, 4)
    parts = 2 if family == "llama" else 1  # the inputs of an attention's last linear come before those of the MLP's
    for i, kept in enumerate(outcome.kept.units):
        scores = found[parts * i + parts - 1][0]
        assert set(kept) == set(scores.topk(len(kept)).indices.tolist())
    if heads:
        groups = [found[parts * i][1].view(2, 2).sum(1) for i in range(3)]
        assert outcome.kept.groups == tuple((int(scores.argmax()),) for scores in groups)


def test_dropping_nothing_keeps_all():
    model = build("llama")

    kept = Width(drop="0%").apply(model, job_for(model)).kept

    assert kept.groups is None
    assert kept.units == (tuple(range(64)),) * 3


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        ("width:from=wanda:heads=0", "must come first"),
        ("width:from=depth:heads=0", "must come first"),
        ("dsnot:from=width/heads=0+wanda", "changes them"),
        ("width:drop=100%", "a share below 100%"),
        ("width", "with N of 0, 2, 3"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_loaded(methods, said, tmp_path):
    with pytest.raises(UserError, match=said):
        api.plan(Spec(models=("tiny",), methods=(methods,), results=tmp_path, device="cpu"))


def test_rows_that_follow(tmp_path):
    """The runner compares what is left with the source, and allows only what the method declared."""
    width = "width:heads=50%"
    methods = (width, *(f"{name}:from=width/heads=50%" for name in ("magnitude", "recon:epochs=0", "retrain")))
    few = {"sequences": 2, "seqlen": 32}
    small = {"measures": ("size",), "calibration": few, "training": {"tokens": 128, "batch": 2, "seqlen": 32}}
    runs.run_here(runs.small(tmp_path, methods=methods, **small))
    runs.run_here(runs.small(tmp_path, methods=(width,), quantizers=("int4-gptq",), **small), only=(width,))

    rows = list(ReadOnlyStore(tmp_path))
    assert not [r.reason for r in rows if r.status != "ok"]
    assert {(r.identity.method, r.identity.quantizer): r.identity.pattern for r in rows} == {
        ("dense", "none"): "dense",
        (width, "none"): "width 25%",
        (width, "int4-gptq"): "width 25%",
        (f"{width} + magnitude:from=width/heads=50%", "none"): "2:4",
        (f"{width} + recon:epochs=0:from=width/heads=50%", "none"): "width 25%",
        (f"{width} + retrain:from=width/heads=50%", "none"): "width 25%",
    }
    parameters = {
        r.identity.method: reading.value
        for r in rows
        for reading in r.readings
        if r.identity.measure == "size" and reading.metric == "parameters"
    }
    removed = 4 * (
        3 * 96 * 128 + 4 * 64 * 128
    )  # of each block: 96 of 352 units and 2 of 4 heads of 32, hidden size 128
    assert parameters[width] == parameters["dense"] - removed
