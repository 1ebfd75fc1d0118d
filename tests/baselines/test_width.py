"""Width against plain loops, and what may follow it."""

import pytest
import torch

from baselines.channels import Channels
from baselines.depth import Depth
from baselines.recon import Recon
from baselines.smooth import Smooth
from baselines.width import Width
from helpers.models import build, job_for, with_prior
from methods.model.smaller_folder import reader
from methods.model.targets import family_of


def naive(model, tokens, heads):
    """Return the importance of units and heads of each block, token by token."""
    family = family_of(model.config.to_dict())
    seen = []
    for block in model.get_submodule(family.blocks):
        for key in (family.width.units, *family.width.heads[:1]):
            module = block.get_submodule(reader(family, key))
            module.register_forward_pre_hook(
                lambda _, args: seen.append(args[0].double().view(*tokens.shape, -1))
            )
    model(input_ids=tokens, use_cache=False)
    out = []
    for x in seen:
        total = 0.0
        for sequence in x:
            total = total + sum(part.abs() for part in sequence).div(len(sequence)).square()
        norms = 0.0
        for sequence in x:
            each = [[h.norm() for h in token.chunk(heads)] for token in sequence]
            norms = norms + torch.tensor(each).mean(0).square()
        out.append((total.sqrt(), norms.sqrt()))
    return out


@pytest.mark.parametrize(("family", "heads"), [("llama", 1), ("gpt2", 0)])
@torch.inference_mode()
def test_most_important_parts_are_kept(family, heads):
    model = build(family)
    job = job_for(model)

    outcome = Width(drop="25%", heads=heads).apply(model, job)

    found = naive(model, job.calibration, 4)
    # The inputs of an attention's last linear come before those of the MLP's.
    parts = 2 if family == "llama" else 1
    for i, kept in enumerate(outcome.kept["units"]):
        scores = found[parts * i + parts - 1][0]
        assert set(kept) == set(scores.topk(len(kept)).indices.tolist())
    if heads:
        groups = [found[parts * i][1].view(2, 2).sum(1) for i in range(3)]
        assert outcome.kept["heads"] == tuple((int(scores.argmax()),) for scores in groups)


def test_dropping_nothing_keeps_all():
    model = build("llama")
    kept = Width(drop="0%").apply(model, job_for(model)).kept
    assert kept == {"units": (tuple(range(64)),) * 3}


@pytest.mark.parametrize(
    "method", [Width(heads=0), Depth(), Channels(), Smooth(), Recon()], ids=lambda m: m.name
)
def test_activations_that_overflow_are_an_error_and_no_choice(method):
    """A NaN would be the largest importance."""
    model = build("llama")
    model.model.layers[1].mlp.down_proj.weight.fill_(1e38)
    job = job_for(model)
    with pytest.raises(FloatingPointError, match="are not finite: activations overflowed"):
        method.apply(model, with_prior(model, job) if method.name == "recon" else job)
