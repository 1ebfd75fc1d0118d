"""Low-rank terms: against their definition, in the files that hold them, and in rows."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from baselines.lowrank import LowRank, low_rank, rank_for, root_of
from bench import api
from bench.export.model import export_model
from bench.inputs import loading, models
from bench.planning.spec import Spec
from bench.results import check
from bench.results.store import ReadOnlyStore
from bench.verify import CheckFailed, WeightCounts, count_terms, verify_folder
from helpers import runs
from helpers.models import REPRESENTATIVES, build, job_for, sample, with_prior, write
from methods import adapter
from methods.contract import Compute
from methods.errors import UserError
from methods.folder import Folder
from methods.pattern import Pattern
from methods.targets import dense_weight


def pruned(family, pattern="2:4"):
    """Build a dense model, and the job of a stage that refines magnitude's mask."""
    model = build(family)
    return model, with_prior(model, job_for(model, pattern))


def attached(outcome):
    """Return the model of an outcome with its terms."""
    model = copy.deepcopy(outcome.model)
    for name, term in outcome.terms.items():
        adapter.attach(model.get_submodule(name), term)
    return model


def inputs_of(model, job):
    """Inputs of each target on the calibration tokens, float64 [tokens, in]."""
    seen, hooks = {}, []
    for name in job.targets:

        def hook(_module, args, name=name):
            seen[name] = args[0].double().flatten(0, -2)

        hooks.append(model.get_submodule(name).register_forward_pre_hook(hook))
    model(input_ids=job.calibration, use_cache=False)
    for handle in hooks:
        handle.remove()
    return seen


@pytest.mark.parametrize("family", sample(REPRESENTATIVES, "llama", "gpt2"))
@torch.inference_mode()
def test_full_rank_is_the_dense_model_and_rank_0_the_sparse_one(family):
    dense, job = pruned(family)
    sparse = copy.deepcopy(dense)
    for name in job.targets:
        dense_weight(sparse.get_submodule(name)).masked_fill_(~job.prior.masks[name], 0)
    tokens = job.calibration

    full = LowRank(rank=1000).apply(copy.deepcopy(dense), job)
    none = LowRank(rank=0).apply(copy.deepcopy(dense), job)

    assert none.terms == {} and set(full.terms) == set(job.targets)
    expected, without, got, zero = (m(input_ids=tokens).logits for m in (dense, sparse, attached(full), attached(none)))
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3)
    assert torch.equal(zero, without)
    assert all(
        torch.equal(a, b) for a, b in zip(full.model.state_dict().values(), sparse.state_dict().values(), strict=True)
    )


@torch.inference_mode()
def test_whitened_svd_has_the_smallest_output_error_on_every_layer():
    """Against the optimum that Eckart and Young give, in float64, by another root of the second moment."""
    dense, job = pruned("llama")
    for name, x in inputs_of(dense, job).items():
        weight = dense.get_submodule(name).weight.double()
        error, moment = weight.masked_fill(job.prior.masks[name], 0), x.T @ x

        def loss(svd, error=error, moment=moment, x=x):
            b, a = low_rank(error, root_of(moment, svd, 1e-6), 4)
            return float((x @ (error - b @ a).T).square().sum())

        values, vectors = torch.linalg.eigh(moment + 1e-6 * moment.diagonal().mean() * torch.eye(len(moment)))
        half = vectors * values.sqrt() @ vectors.T
        least = torch.linalg.svdvals(error @ half)[4:].square().sum()
        assert loss("whitened") == pytest.approx(float(least), rel=1e-3), name
        assert loss("whitened") < 0.99 * loss("plain"), name
        assert loss("whitened") < loss("diagonal"), name


@torch.inference_mode()
def test_rounds_lower_the_error():
    dense, job = pruned("llama")
    errors = [
        LowRank(rank=4, rounds=rounds).apply(copy.deepcopy(dense), job).notes["reconstruction_error"]
        for rounds in (0, 4)
    ]
    assert sum(errors[1].values()) < 0.95 * sum(errors[0].values())


@pytest.mark.parametrize(
    ("rank", "shape", "expected"), [(16, (64, 32), 16), (100, (64, 32), 32), ("10%", (64, 32), 2), ("1%", (64, 32), 0)]
)
def test_budget_is_a_share_of_the_dense_bytes(rank, shape, expected):
    assert rank_for(rank, torch.Size(shape)) == expected


def test_patterns_with_a_term_are_read_back():
    for text in ("2:4 + r16", "50% + 12.5%", "8:16 + r1"):
        assert str(Pattern.parse(text)) == text
        assert str(Pattern.parse(text).base) == text.split(" ")[0]
    for text in ("dense + r16", "2:4 + 16", "depth 25% + r1", "2:4 + r1 + r2"):
        with pytest.raises(UserError, match="invalid pattern"):
            Pattern.parse(text)


@pytest.mark.parametrize(
    ("methods", "pattern", "said"),
    [
        ("lowrank:from=depth+wanda", "2:4", "changes them"),
        ("wanda:from=lowrank", "2:4", "cannot follow a low-rank term"),
        ("lowrank:from=lowrank", "2:4", "cannot follow a low-rank term"),
        ("lowrank:rank=100%", "2:4", "a share below 100%"),
        ("wanda", "2:4 + r16", "use --pattern 2:4 and --methods lowrank"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_loaded(methods, pattern, said, tmp_path):
    with pytest.raises(UserError, match=said):
        api.plan(Spec(models=("tiny",), methods=(methods,), patterns=(pattern,), results=tmp_path, device="cpu"))


@pytest.fixture
def folder(tmp_path):
    """Write a sparse model with terms of several ranks."""
    dense, job = pruned("llama")
    outcome = LowRank(rank="20%").apply(dense, job)
    write(outcome.model, tmp_path / "model")
    adapter.write(tmp_path / "model", outcome.terms, transposed=False)
    assert len(set(outcome.notes["ranks"].values())) > 1
    return tmp_path / "model", outcome, job


@torch.inference_mode()
def test_folder_loads_here_and_in_peft_with_the_same_logits(folder):
    path, outcome, job = folder

    expected = loading.load(path, Compute())(input_ids=job.calibration).logits

    torch.testing.assert_close(attached(outcome)(input_ids=job.calibration).logits, expected)
    peft = pytest.importorskip("peft")
    base = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(base, path / "adapter")
    assert torch.equal(model(input_ids=job.calibration).logits, expected)


@torch.inference_mode()
def test_export_keeps_the_term_or_merges_it(folder, tmp_path):
    path, _, job = folder
    expected = loading.load(path, Compute())(input_ids=job.calibration).logits

    kept = export_model(str(path), "hf", tmp_path / "kept")
    merged = export_model(str(path), "hf", tmp_path / "merged", merge=True)

    assert "low-rank terms in adapter" in kept and "pattern of the weights ends" in merged
    assert not verify_folder(Folder(tmp_path / "kept"), "2:4", ("*",), ()).violations
    assert verify_folder(Folder(tmp_path / "merged"), "2:4", ("*",), ()).violations
    assert torch.equal(loading.load(tmp_path / "kept", Compute())(input_ids=job.calibration).logits, expected)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    torch.testing.assert_close(plain(input_ids=job.calibration).logits, expected, rtol=1e-4, atol=1e-4)
    for format_ in ("packed24", "onnx"):
        with pytest.raises(UserError, match="--merge"):
            export_model(str(path), format_, tmp_path / "other")
    with pytest.raises(UserError, match="leave --merge out"):
        export_model(str(tmp_path / "merged"), "hf", tmp_path / "other", merge=True)
    with pytest.raises(UserError, match="--merge"):
        models.resolve(str(path))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda term: term._replace(a=term.a * torch.nan), "NaN"),
        (lambda term: term._replace(a=term.a[:, 1:]), "does not fit"),
        (lambda term: term.to("cpu", torch.bfloat16), "does not fit"),
    ],
)
def test_check_refuses_a_term_that_does_not_fit(change, said, folder):
    path, outcome, job = folder
    counts = WeightCounts(job.pattern, layers=dict.fromkeys(job.targets))
    name = job.targets[0]
    count_terms(counts, outcome.terms, Folder(path), torch.float32)
    assert counts.bytes == 4 * sum(t.numel() for t in load_file(path / "adapter/adapter_model.safetensors").values())

    with pytest.raises(CheckFailed, match=said):
        count_terms(counts, {name: change(outcome.terms[name])}, Folder(path), torch.float32)
    with pytest.raises(CheckFailed, match="does not fit"):
        count_terms(counts, {"lm_head": outcome.terms[name]}, Folder(path), torch.float32)


def test_factor_that_is_missing_is_refused(folder):
    file = folder[0] / "adapter/adapter_model.safetensors"
    tensors = load_file(file)
    del tensors[next(name for name in tensors if "lora_A" in name)]
    save_file(tensors, file)

    with pytest.raises(UserError, match="lacks factors"):
        loading.load(folder[0], Compute())


def test_rows(tmp_path):
    methods = ("lowrank:rank=8", "retrain:from=lowrank/rank=8")
    small = {"measures": ("size",), "calibration": {"sequences": 2, "seqlen": 32}}
    runs.run_here(runs.small(tmp_path, methods=methods, training={"tokens": 128, "batch": 2, "seqlen": 32}, **small))
    runs.run_here(runs.small(tmp_path, methods=methods[:1], quantizers=("int4-rtn",), **small))

    rows = list(ReadOnlyStore(tmp_path))
    assert not [r.reason for r in rows if r.status != "ok"]
    by_row = {(r.identity.method, r.identity.quantizer, r.identity.measure): r for r in rows}
    first = "sparsegpt + lowrank:rank=8"
    found = {key[:2]: r.identity.pattern for key, r in by_row.items() if "lowrank" in key[0]}
    assert set(found.values()) == {"2:4 + r8"} and len(found) == 3
    size = {x.metric: x.value for x in by_row[first, "none", "size"].readings}
    factors = 4 * 8 * (4 * (128 + 128) + 3 * (128 + 352))
    weights = 4 * (4 * 128 * 128 + 3 * 128 * 352)
    assert size["adapter_bytes"] == 4 * factors
    assert size["bits_per_weight"] == pytest.approx(17 + 32 * factors / weights)
    assert size["relative_flops"] == pytest.approx(0.5 + factors / weights)
    assert not check.check_folder(tmp_path).problems
