"""Each transform on random models of every family, in float64: the logits stay."""

from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from baselines.permute import Permute
from baselines.rotate import Rotate
from baselines.smooth import Awq, Smooth
from helpers.layers import inputs_of
from methods.contract.errors import Skipped, UserError
from methods.contract.method import Compute, Prior
from methods.model.families import FAMILIES
from methods.model.folder import state
from methods.workshop.transforms.changes import Rotation, Scaling
from methods.workshop.transforms.wiring import Wiring

POST_NORM = ("gemma2", "gemma3_text", "olmo2", "olmo3")
"""Families whose norms follow the linears that write the residual stream."""
DENSE = [kind for kind, family in FAMILIES.items() if not family.experts]
TRANSFORMS = {
    "rotate": Rotate(), "rotate values": Rotate(residual=False),
    "rotate learned": Rotate(steps=2, lr=0.1), "rotate pca": Rotate(pca=True), "permute": Permute(),
    "permute learned": Permute(steps=3, block=8), "smooth": Smooth(), "awq": Awq(group=8, grid=4),
}  # fmt: skip

PLAIN = ("rotate", "rotate values", "permute", "smooth", "awq")
"""The others find a rotation or an order in another way, and change the model by it as these do."""


def cases():
    for kind in DENSE:
        for name in TRANSFORMS:
            fused = kind in ("gpt2", "gpt_neox", "phi3")
            cannot = {
                "rotate": kind in POST_NORM,
                "rotate learned": kind in POST_NORM,
                "rotate values": fused,
                "rotate pca": kind in POST_NORM or FAMILIES[kind].flow.mean,
                "smooth": kind.startswith("olmo"),
            }
            if cannot.get(name):
                continue
            daily = kind == "llama" or (kind in ("gemma", "opt", "gemma3_text") and name in PLAIN)
            yield pytest.param(kind, name, marks=() if daily else pytest.mark.full)


@pytest.fixture
def source(make, make_job):
    """source(kind) -> a model in float64 with norms that are not 1, and its job."""

    def build(kind):
        model = make(kind).double()
        generator = torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.data.uniform_(0.5, 1.5, generator=generator)
        tokens = torch.randint(3, 64, (4, 16), generator=generator)
        return model, make_job(model, compute=Compute(dtype=torch.float64), calibration=tokens)

    return build


def logits(model):
    tokens = torch.randint(3, 64, (2, 16), generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        return model(tokens).logits


@pytest.mark.parametrize(("kind", "name"), list(cases()))
def test_the_function_is_kept(kind, name, source):
    model, job = source(kind)
    before, weights = logits(model), {n: p.clone() for n, p in state(model).items()}
    outcome = TRANSFORMS[name].apply(model, job)
    after = logits(outcome.model)
    exact = FAMILIES[kind].flow.mean  # RMSNorm of transformers computes in float32
    assert float((after - before).norm() / before.norm()) < (1e-12 if exact else 2e-6)
    left = state(outcome.model)
    changed = {n for n, p in left.items() if n not in weights or not torch.equal(p, weights[n])}
    targets = {f"{target}.weight" for target in job.targets}
    assert changed & targets, "nothing changed"
    assert changed - targets <= outcome.changed


def round_norms(model, names):
    for module in map(model.get_submodule, names):
        module.weight.data = module.weight.data.bfloat16().to(module.weight.dtype)


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_norms_in_bfloat16_take_scales_without_a_rounding(kind, source):
    """The file is in bfloat16, whatever dtype the model is computed in."""
    model, job = source(kind)
    job = replace(job, compute=replace(job.compute, written_as=torch.bfloat16))
    wiring = Wiring(model, job, "smooth")
    places = list(wiring.readers())
    norms = [f"{block}.{norm}" for block, norm, _ in places]
    round_norms(model, norms)
    before = logits(model)
    scale = torch.logspace(-1, 3, 32, 2.0, dtype=torch.float64)
    scale[0] = 1e6  # so small a quotient is zero in a norm of 1 + w
    for block, norm, _ in places:
        wiring.normed(block, norm, Scaling(scale))
    model = wiring.outcome().model
    round_norms(model, norms)
    after = logits(model)
    assert float((after - before).norm() / before.norm()) < 2e-6


def test_a_tied_head_becomes_a_tensor_of_its_own(source):
    model, job = source("gemma")
    outcome = Rotate().apply(model, job)
    assert outcome.config == {"tie_word_embeddings": False}
    assert "lm_head.weight" in outcome.changed


def test_learned_rotations_gather_the_importance_of_weights(source):
    """Compute the entropy of Wanda's importance in the rotated model itself."""
    model, job = source("llama")
    outcome = Rotate(steps=30, lr=0.05).apply(model, job)
    before, after = outcome.notes["entropy"]
    assert after < 0.98 * before
    assert mean_entropy(outcome.model, job) == pytest.approx(after, abs=2e-4)


def mean_entropy(model, job):
    entropies = []
    for target, x in inputs_of(model, job).items():
        importance = model.get_submodule(target).weight.square() * x.square().sum(0)
        linear = target.rpartition(".")[2].removesuffix("_proj")
        for side in {"v": (0, 1), "o": (0, 1), "down": (0,)}.get(linear, (1,)):
            share = importance / importance.sum(side, keepdim=True)
            entropies.append(-torch.xlogy(share, share).sum(side))
    return float(torch.cat(entropies).mean())


@pytest.mark.parametrize("steps", [0, 10])
def test_permuting_keeps_more(steps, source):
    model, job = source("llama")
    notes = (Permute(steps=steps, block=8) if steps else Permute()).apply(model, job).notes
    shares = notes["kept"]
    assert set(shares) == {"residual", "units", "heads"}
    assert all(after >= before for before, after in shares.values() if not steps)
    assert shares["units"][1] > shares["units"][0]
    assert set(notes.get("error", {})) == (set(shares) if steps else set())
    assert all(0 < least <= first for first, least in notes.get("error", {}).values())


def test_smoothing_makes_inputs_and_weights_alike(source):
    """With alpha 0 the readers' largest weights become equal in every column."""
    model, job = source("llama")
    Smooth(alpha=0.0).apply(model, job)
    attention = model.model.layers[0].self_attn
    readers = (attention.q_proj, attention.k_proj, attention.v_proj)
    tops = torch.cat([linear.weight.abs() for linear in readers]).amax(0)
    torch.testing.assert_close(tops, tops.mean().expand_as(tops))


def test_awq_errs_less_than_rounding_alone(source):
    model, job = source("llama")
    model.model.embed_tokens.weight.data[:, 3] *= 30  # an outlier in the residual stream
    outcome = Awq(group=8, grid=8).apply(model, job)
    assert max(outcome.notes["alphas"]) > 0


@pytest.mark.parametrize("transform", [Rotate(), Permute(), Smooth(), Awq()])
def test_a_pruned_model_is_refused(transform, source):
    model, job = source("llama")
    masks = {target: torch.arange(8) % 4 < 2 for target in job.targets}
    with pytest.raises(UserError, match="starts from a dense model"):
        transform.apply(model, replace(job, prior=Prior(folder=job.source, masks=masks)))


def test_the_order_of_zero_weights_is_any(make, make_job):
    """A block that was added to a model begins so."""
    model = make("llama")
    model.model.layers[1].self_attn.o_proj.weight.zero_()
    model.model.layers[1].mlp.down_proj.weight.zero_()
    assert Permute().apply(model, make_job(model)).notes["kept"]["heads"][0] <= 1


@pytest.mark.parametrize(
    ("transform", "kind", "left_out", "said"),
    [
        (Rotate(), "mixtral", None, "mixtral"),
        *((Rotate(), kind, None, "residual=false") for kind in POST_NORM),
        (Permute(), "mixtral", None, "mixtral"),
        (Smooth(), "olmo2", None, "use awq"),  # its linears follow no norm
        (Rotate(steps=2, residual=False), "llama", "self_attn", "include such targets"),
        (Awq(group=5), "llama", None, "awq:group=5 does not divide"),
    ],
)
def test_what_a_transform_cannot_do_is_refused(transform, kind, left_out, said, make, make_job):
    model = make(kind)
    job = make_job(model)
    with pytest.raises(UserError, match=said):
        transform.apply(model, excluding(job, left_out) if left_out else job)


def test_a_streamed_model_is_skipped(source):
    model, job = source("llama")
    model.model.layers[1].to("meta")
    with pytest.raises(Skipped, match="in memory"):
        Rotate().apply(model, job)


@pytest.mark.parametrize("shape", [(8, 8), (2, 4, 4)])
def test_a_rotation_turns_weights_on_another_device(shape):
    rotation = Rotation(torch.zeros(shape, dtype=torch.float64))
    with FakeTensorMode(allow_non_fake_inputs=True):
        weight = torch.empty(3, 8, dtype=torch.float64, device="cuda")
        assert rotation.columns(weight).device == weight.device


def excluding(job, name):
    return replace(job, targets=tuple(target for target in job.targets if name not in target))


def test_a_block_without_targets_keeps_its_values_where_rotations_are_learned(source):
    model, job = source("llama")
    before, values = logits(model), [b.self_attn.o_proj.weight.clone() for b in model.model.layers]
    Rotate(steps=2, lr=0.1, residual=False).apply(model, excluding(job, "layers.0."))
    now = [b.self_attn.o_proj.weight for b in model.model.layers]
    assert list(map(torch.equal, now, values)) == [True, False, False]
    assert float((logits(model) - before).norm() / before.norm()) < 2e-6


def test_a_stream_that_no_target_reads_keeps_its_order(source):
    model, job = source("llama")
    down = tuple(target for target in job.targets if "down_proj" in target)
    assert set(Permute().apply(model, replace(job, targets=down)).notes["kept"]) == {"units"}
