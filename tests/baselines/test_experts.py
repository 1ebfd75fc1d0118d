"""Experts of a mixture: each score against a naive loop, and planted experts that must go first."""

import copy
import json
import shutil
from contextlib import nullcontext
from dataclasses import replace
from itertools import combinations

import pytest
import torch
from transformers import AutoModelForCausalLM

from baselines.experts import Experts, matrices, observe, start
from baselines.wanda import Wanda
from bench.catalog.entries import METHODS
from bench.execution.smaller import write_smaller
from bench.formats.writing import export_model
from bench.inputs import loading
from bench.measures.size import of_experts
from bench.verify import Layer, WeightCounts
from helpers.models import CONFIGS, build, job_for, write
from methods.contract.errors import UserError
from methods.contract.method import Compute
from methods.contract.pattern import Pattern
from methods.model import constant_experts
from methods.model.experts import ConstantExpert, experts_of
from methods.model.families import FAMILIES
from methods.model.folder import Folder
from methods.model.smaller_folder import count_left
from methods.model.targets import family_of, find_targets
from methods.workshop.pruning.expert_merging import merge, unit_rows
from methods.workshop.pruning.expert_scores import SCORES, flatness
from methods.workshop.pruning.holders import hold

MIXTURES = [name for name in CONFIGS if FAMILIES[name].experts]


def blocks_of(model):
    return model.get_submodule(family_of(model.config.to_dict()).blocks)


def router_of(model, block):
    return block.get_submodule(family_of(model.config.to_dict()).dense[0])


def logits(model, tokens):
    return model(input_ids=tokens, use_cache=False).logits


def naive(model, block, hidden):
    """The scores of each expert, token by token."""
    inputs = [[] for _ in experts_of(block)[1]]
    router, (_, experts) = router_of(model, block), experts_of(block)
    rows = [[] for _ in experts]
    removal = [0.0] * len(experts)
    for x in hidden.split(1):
        all_logits, weights, chosen = router(x)
        outputs = torch.cat([expert(x) for expert in experts])
        weights = weights.double()
        whole = weights[0] @ outputs[chosen[0]]
        for g, e in zip(weights[0], chosen[0].tolist(), strict=True):
            rows[e].append((float(g), float(g / weights.sum()), float(outputs[e].norm())))
            inputs[e].append(outputs[e])
            # The router's own arithmetic, on logits without this expert.
            values = all_logits[0].to(torch.float64, copy=True)
            values[e] = -torch.inf
            best = values.topk(len(chosen[0])).indices
            share = values[best].softmax(0)
            if not getattr(router, "norm_topk_prob", True):
                share = values.softmax(0)[best]
            removal[e] += float((share @ outputs[best] - whole).square().sum())

    def norms(row):
        return torch.tensor([norm for _, _, norm in row])

    def scaled(row):
        return torch.tensor([share * norm for _, share, norm in row])

    def mean(values):
        return float(values.sum() / max(1, len(values)))

    def spread(outputs):
        return float(torch.stack(outputs).var(0, correction=0).sum().sqrt()) if outputs else 0.0

    mone = [sum(g for g, _, _ in row) * spread(f) for row, f in zip(rows, inputs, strict=True)]
    return {
        "frequency": [len(row) for row in rows],
        "gate": [sum(gate for gate, _, _ in row) for row in rows],
        "ean": [float(norms(row).sum()) for row in rows],
        "man": [mean(norms(row)) for row in rows],
        "msan": [mean(norms(row).square()) for row in rows],
        "reap": [mean(scaled(row)) for row in rows],
        "removal": removal,
        "mone": mone,
    }


@pytest.mark.parametrize("family", MIXTURES)
@torch.inference_mode()
def test_scores_of_one_pass_are_those_of_a_loop_over_tokens(family):
    model = build(family).double()
    job = job_for(model)
    held = hold(model, job.source, job.compute)
    states = start(held, job)
    for index, block in enumerate(held.blocks):
        _, experts = experts_of(block)
        inputs = []
        hidden = [each.clone() for each in states.hidden]
        hook = experts.register_forward_pre_hook(lambda _, args, to=inputs: to.append(args[0]))
        for each in hidden:
            states.run(index, block, each)
        hook.remove()
        seen = observe(held, index, states, by="removal").seen
        for by, wanted in naive(model, block, torch.cat(inputs)).items():
            found = SCORES[by](seen)
            expected = torch.tensor(wanted, dtype=torch.float64)
            torch.testing.assert_close(found, expected, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("family", MIXTURES)
def test_flatness_is_the_mean_size_of_a_weight_over_their_root_mean_square(family):
    for expert in experts_of(blocks_of(build(family))[0])[1]:
        w = torch.cat([p.flatten() for p in expert.parameters() if p.ndim == 2])
        wanted = float(w.abs().mean() / w.square().mean().sqrt())
        assert flatness(matrices(expert)) == pytest.approx(wanted, rel=1e-5)


def smaller(model, kept, folder):
    """The model that transformers loads of what is kept, and its source folder."""
    source, target = folder / "source", folder / "target"
    write(model, source)
    changes = write_smaller(model, source, kept, target, torch.float32)
    config = json.loads((source / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | changes))
    return AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32).eval(), source


@pytest.mark.parametrize("family", MIXTURES)
@torch.inference_mode()
def test_folder_computes_what_its_source_does_with_the_other_router_rows(family, tmp_path):
    model = build(family)
    job = job_for(model)
    kept = Experts(drop=1).apply(model, job).kept
    loaded, _ = smaller(model, kept, tmp_path)
    for block, left in zip(blocks_of(model), kept["experts"], strict=True):
        router, (_, experts) = router_of(model, block), experts_of(block)
        own = router.forward

        def among(hidden, own=own, router=router, left=left):
            values, _, _ = own(hidden)
            gone = [i for i in range(values.shape[1]) if i not in left]
            values[:, gone] = -torch.inf
            best = values.topk(router.top_k)
            if getattr(router, "norm_topk_prob", True):
                return values, best.values.softmax(1), best.indices
            return values, values.softmax(1).gather(1, best.indices), best.indices

        router.forward = among
        for number in set(range(len(experts))) - set(left):
            for parameter in experts[number].parameters():
                parameter.fill_(torch.nan)
    assert len(experts_of(blocks_of(model)[0])[1]) == len(kept["experts"][0]) + 1
    got, expected = logits(loaded, job.calibration), logits(model, job.calibration)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", MIXTURES)
@torch.inference_mode()
def test_folder_with_constants_computes_what_its_source_does_with_them(family, tmp_path):
    model = build(family)
    job = job_for(model)
    outcome = Experts(replace=1).apply(model, job)
    smaller(model, outcome.kept, tmp_path)
    constant_experts.write(tmp_path / "target", outcome.constants, torch.float32)
    changes = zip(blocks_of(model), outcome.kept["experts"], strict=True)
    # From the last block on, so that each mean is of the dense model's tokens.
    for block, left in reversed(list(changes)):
        _, experts = experts_of(block)
        (gone,) = set(range(len(experts))) - set(left)
        outputs = []
        hook = experts[gone].register_forward_hook(lambda _, args, y, to=outputs: to.append(y))
        logits(model, job.calibration)
        hook.remove()
        experts[gone] = ConstantExpert(torch.cat(outputs).mean(0))
    loaded = loading.load(tmp_path / "target", Compute())
    got, expected = logits(loaded, job.calibration), logits(model, job.calibration)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="use experts:drop=, whose folder other libraries load"):
        export_model(str(tmp_path / "target"), "hf", tmp_path / "out")


@pytest.mark.parametrize("family", MIXTURES)
@torch.inference_mode()
def test_streamed_model_with_constants_is_pruned_as_in_memory(family, tmp_path):
    """The tokens of a block have passed the constants of the blocks before it, which stay."""
    model, target = build(family), tmp_path / "target"
    outcome = Experts(replace=1).apply(model, job_for(model))
    smaller(model, outcome.kept, tmp_path)
    constant_experts.write(target, outcome.constants, torch.float32)
    whole = loading.load(target, Compute())
    Wanda().apply(whole, job_for(whole, "2:4"))
    compute = Compute(stream=True, scratch=tmp_path, max_bytes=1)
    streamed = loading.load(target, compute)
    job = job_for(streamed, "2:4")
    for time in ("first", "second"):
        (tmp_path / time).mkdir()
        job = replace(job, source=target, compute=compute, workdir=tmp_path / time)
        folder = Wanda().apply(streamed, job).model
        shutil.copy(target / "config.json", folder)
        pruned = loading.load(folder, Compute())
        for name in job.targets:
            assert torch.equal(pruned.get_submodule(name).weight, whole.get_submodule(name).weight)


@pytest.mark.parametrize("family", MIXTURES)
@torch.inference_mode()
def test_dropping_nothing_changes_no_bit(family, tmp_path):
    model = build(family)
    job = job_for(model)
    outcome = Experts(drop=0, by="removal").apply(model, job)
    count = len(experts_of(blocks_of(model)[0])[1])
    assert outcome.kept["experts"] == (tuple(range(count)),) * 3
    assert outcome.notes["layer_error"] == [0.0] * 3
    _, source = smaller(model, outcome.kept, tmp_path)
    before, after = Folder(source), Folder(tmp_path / "target")
    assert set(before) == set(after)
    assert all(torch.equal(before.tensor(name), after.tensor(name)) for name in before)


SEEN = ("frequency", "gate", "ean", "man", "msan", "reap", "removal")


@pytest.mark.parametrize(
    ("family", "by"),
    [*(("gpt_oss", by) for by in SEEN), *((family, "reap") for family in MIXTURES[:-1])],
)
@torch.inference_mode()
def test_dead_expert_goes_first_at_no_loss(family, by, tmp_path):
    model = build(family)
    job = job_for(model)
    # The first channel is positive for all tokens, so the logit of the last is very negative.
    model.get_input_embeddings().weight[:, 0] = 10
    for block in blocks_of(model):
        weight = router_of(model, block).weight
        weight[:, 0] = 0
        weight[-1] = 0
        weight[-1, 0] = -1e4
    outcome = Experts(drop=1, by=by).apply(model, job)
    assert outcome.kept["experts"] == (tuple(range(len(weight) - 1)),) * 3
    assert all(load[-1] == 0 for load in outcome.notes["tokens_per_expert"])
    # Its tokens are none, so the others keep theirs.
    loads = outcome.notes["tokens_per_expert"]
    assert outcome.notes["tokens_per_expert_after"] == [load[:-1] for load in loads]
    # A router with fewer rows may round otherwise.
    assert outcome.notes["layer_error"] == pytest.approx([0.0] * 3, abs=1e-12)
    loaded, _ = smaller(model, outcome.kept, tmp_path)
    wanted = logits(model, job.calibration)
    torch.testing.assert_close(logits(loaded, job.calibration), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "share", "config", "said"),
    [
        ("llama", "25%", {}, "llama has no experts that can be removed"),
        ("mixtral", 3, {}, "1 of the 4 experts would be left, and the router chooses 2"),
        ("mixtral", "75%", {}, "remove at most 2"),
        ("mixtral", 1, {"n_group": 2}, "groups of equal size"),
    ],
)
def test_what_the_router_needs_is_not_removed(family, share, config, said):
    with pytest.raises(UserError, match=said):
        count_left({"experts": share}, CONFIGS[family]().to_dict() | config)


def duplicated(family):
    """A mixture of one expert per token, where expert 2 of each block is expert 0 again."""
    model = build(family)
    for block in blocks_of(model):
        router, (_, experts) = router_of(model, block), experts_of(block)
        router.top_k = 1
        router.norm_topk_prob = True  # else the weights of a token say how many experts there are
        for rows in router.parameters():
            rows[2] = rows[0]
        experts[2].load_state_dict(experts[0].state_dict())
    model.config.num_experts_per_tok = 1
    model.config.norm_topk_prob = True
    return model


# The best expert takes the ones that REAM removes. It loses nothing only if the copy has no tokens,
# which rounding decides where both have the same logit.
@pytest.mark.parametrize(
    ("settings", "family"),
    [
        *(({"drop": 1, "by": "removal"}, family) for family in MIXTURES),
        *(({"merge": 1, "by": "hc"}, family) for family in MIXTURES),
        ({"merge": 1, "by": "ream"}, "mixtral"),
    ],
)
@torch.inference_mode()
def test_one_of_two_equal_experts_goes_first_and_nothing_is_lost(settings, family, tmp_path):
    model = duplicated(family)
    job = job_for(model)
    wanted = logits(model, job.calibration)
    write(model, tmp_path / "source")
    outcome = Experts(**settings).apply(model, job)
    others = set(range(len(experts_of(blocks_of(model)[0])[1]))) - {0, 2}
    assert all(others <= set(left) for left in outcome.kept["experts"])
    assert outcome.notes["layer_error"] == pytest.approx([0.0] * 3, abs=1e-12)
    changes = write_smaller(
        model,
        tmp_path / "source",
        outcome.kept,
        tmp_path / "target",
        torch.float32,
        outcome.changed,
    )
    config = json.loads((tmp_path / "source/config.json").read_text())
    (tmp_path / "target/config.json").write_text(json.dumps(config | changes))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "target", dtype=torch.float32)
    torch.testing.assert_close(logits(loaded, job.calibration), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", MIXTURES)
@torch.inference_mode()
def test_aligned_mean_of_an_expert_and_its_reordered_copy_computes_the_same(family):
    (_, experts) = experts_of(blocks_of(build(family))[0])
    rows = unit_rows(experts[0])
    order = torch.randperm(rows.shape[1], generator=torch.Generator().manual_seed(0))
    first, second = (list(expert.children()) for expert in experts[:2])
    second[0].weight[rows] = first[0].weight[rows[:, order]]
    second[1].weight.copy_(first[1].weight[:, order])
    if first[0].bias is not None:
        second[0].bias[rows] = first[0].bias[rows[:, order]]
        second[1].bias.copy_(first[1].bias)
    x = torch.randn(5, first[0].weight.shape[1], generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(experts[1](x), experts[0](x))

    def own(number):
        return nullcontext(experts[number])

    both = merge(own, (0, 1), [0.3, 0.7], align=True)
    torch.testing.assert_close(both(x), experts[0](x))
    mixed = merge(own, (0, 1), [0.3, 0.7], align=False)
    assert not torch.allclose(mixed(x), experts[0](x), atol=1e-3)


@torch.inference_mode()
def test_merged_weights_are_a_mean_by_tokens():
    model = build("gpt_oss")
    job = job_for(model)
    before = [copy.deepcopy(experts_of(block)[1]) for block in blocks_of(model)]
    outcome = Experts(merge="50%").apply(model, job)
    for index, (old, left) in enumerate(zip(before, outcome.kept["experts"], strict=True)):
        load = outcome.notes["tokens_per_expert"][index]
        new = experts_of(blocks_of(model)[index])[1]
        for number in left:
            names = {name for name in outcome.changed if f"{index}.mlp.experts.{number}." in name}
            assert len(names) in (0, 4)
            if not names:
                continue
            # The members of the cluster: the shares of its mean say which.
            gone = [n for n in range(4) if n not in left]
            sets = [c for size in (1, 2) for c in combinations(gone, size)]
            means = []
            for others in sets:
                group = (number, *others)
                total = sum(load[n] for n in group)
                weights = [old[n].down_proj.weight * (load[n] / total) for n in group]
                means.append(sum(weights))
            assert any(torch.allclose(new[number].down_proj.weight, m, atol=1e-6) for m in means)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"by": "hc"}, "use merge= in place of drop="),
        ({"merge": 1, "by": "reap"}, "use by=hc or by=ream"),
        ({"merge": 1, "drop": 1}, "leave all but one out"),
        ({"merge": 1, "replace": 1}, "leave all but one out"),
    ],
)
def test_a_way_that_does_not_fit_is_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        Experts(**settings)


@pytest.mark.parametrize("family", ["gpt_oss", "qwen3_moe", "llama"])
def test_size_counts_what_runs_for_a_token(family):
    model = build(family)
    config = model.config.to_dict()
    counts = WeightCounts(Pattern())
    counts.parameters = sum(p.numel() for p in model.parameters())
    for target in find_targets(config, {n: tuple(t.shape) for n, t in model.state_dict().items()}):
        counts.layers[target] = Layer(model.get_submodule(target).weight.numel(), 0)
    found = {reading.metric: reading.value for reading in of_experts(config, counts)}
    if family == "llama":
        assert found == {}
        return
    experts, k = FAMILIES[family].size(FAMILIES[family].experts.count, config), 2
    first = [experts_of(block)[1][0] for block in blocks_of(model)]
    linears = [linear.weight.numel() for expert in first for linear in expert.children()]
    assert found["experts"] == experts
    assert found["active_parameters"] == counts.parameters - sum(linears) * (experts - k)


REAM = {"merge": "50%", "by": "ream"}


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        *((family, {"drop": 1}) for family in MIXTURES),
        *((family, REAM) for family in MIXTURES),
        ("gpt_oss", {"drop": 1, "by": "removal"}),
        ("gpt_oss", {"drop": 1, "by": "aimer"}),
        ("gpt_oss", {"merge": "50%", "by": "hc"}),
        ("gpt_oss", {"merge": 0}),
        ("gpt_oss", {"replace": 1}),
    ],
)
@torch.inference_mode()
def test_streamed_mixture_becomes_the_same_folder(family, settings, tmp_path):
    method, model = Experts(**settings), build(family)
    source = write(model, tmp_path / "source")
    job = job_for(model)
    if method.by == "aimer":
        job = replace(job, calibration=None)
    wanted = method.apply(model, job)
    compute = Compute(stream=True, scratch=tmp_path, max_bytes=1)
    streamed = loading.load(source, compute)
    assert any(p.is_meta for p in streamed.parameters())
    job = replace(job, source=source, compute=compute, workdir=tmp_path)
    found = method.apply(streamed, job)
    assert all(p.is_meta for p in blocks_of(streamed).parameters())
    assert found._replace(model=None, constants={}) == wanted._replace(model=None, constants={})
    assert (found.model != streamed) == bool(found.changed)
    for index, constants in wanted.constants.items():
        for name, tensor in constants.items():
            assert torch.equal(found.constants[index][name], tensor)
    merged = found.model if found.changed else None
    for name, each, others in (("memory", model, None), ("streamed", streamed, merged)):
        write_smaller(
            each, source, found.kept, tmp_path / name, torch.float32, found.changed, others
        )
        shutil.copy(source / "config.json", tmp_path / name)
    first, second = (Folder(tmp_path / name) for name in ("memory", "streamed"))
    assert set(first) == set(second)
    assert all(torch.equal(first.tensor(name), second.tensor(name)) for name in first)


@torch.inference_mode()
def test_aimer_and_random_need_no_text(tmp_path):
    model = build("mixtral")
    job = job_for(model)
    for by in ("aimer", "random"):
        outcome = Experts(drop=1, by=by).apply(model, replace(job, calibration=None))
        assert outcome.kept == Experts(drop=1, by=by).apply(model, job).kept
        assert outcome.notes == {"experts": {"of": 4, "left": 3}}
    entry = METHODS["experts"]
    assert entry.needs_with({"by": "random"}) == () and entry.rules[0].draws({"by": "random"})
    assert entry.needs_with({"by": "random", "replace": 1}) == ("calibration",)
