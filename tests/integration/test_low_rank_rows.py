"""Low-rank terms in the files that hold them, in what follows them, and in rows."""

import copy
from dataclasses import replace
from functools import partial

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from baselines.lowrank import LowRank
from baselines.recon import Recon
from bench.formats.writing import export_model
from bench.inputs import loading, models
from bench.results import folder_check
from bench.results.store import ReadOnlyStore
from bench.system.cache import cache_dir
from bench.verify import CheckFailed, WeightCounts, count_terms, verify_folder
from helpers import runs
from helpers.models import build, job_for, sample, with_prior, write
from methods.contract.errors import UserError
from methods.contract.method import Compute, Prior
from methods.model import low_rank_adapter
from methods.model.folder import Folder
from methods.model.terms import Factors, terms_of


def terms(outcome):
    return terms_of(outcome.model, torch.float32)


@pytest.fixture
def folder(tmp_path):
    """Write a sparse model with terms of several ranks."""
    dense = build("llama")
    job = with_prior(dense, job_for(dense))
    outcome = LowRank(rank="20%").apply(dense, job)
    write(outcome.model, tmp_path / "model")
    low_rank_adapter.write(tmp_path / "model", terms(outcome), transposed=False)
    assert len(set(outcome.notes["ranks"].values())) > 1
    return tmp_path / "model", outcome, job


@torch.inference_mode()
def test_folder_loads_here_and_in_peft_with_the_same_logits(folder):
    path, outcome, job = folder
    expected = loading.load(path, Compute())(input_ids=job.calibration).logits
    torch.testing.assert_close(outcome.model(input_ids=job.calibration).logits, expected)
    base = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(base, path / "adapter")
    assert torch.equal(model(input_ids=job.calibration).logits, expected)


@torch.inference_mode()
@pytest.mark.parts("exports", "onnx")
def test_export_keeps_the_term_or_merges_it(folder, tmp_path):
    path, _, job = folder
    expected = loading.load(path, Compute())(input_ids=job.calibration).logits

    kept = export_model(str(path), "hf", tmp_path / "kept")
    merged = export_model(str(path), "hf", tmp_path / "merged", merge=True)

    assert "low-rank terms in adapter" in kept and "pattern of the weights ends" in merged
    assert not verify_folder(Folder(tmp_path / "kept"), "2:4", ("*",), ()).violations
    assert verify_folder(Folder(tmp_path / "merged"), "2:4", ("*",), ()).violations
    again = loading.load(tmp_path / "kept", Compute())
    assert torch.equal(again(input_ids=job.calibration).logits, expected)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    found = plain(input_ids=job.calibration).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    for format_ in ("stored", "onnx"):
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
    count_terms(counts, terms(outcome), Folder(path), torch.float32)
    factors = load_file(path / "adapter/adapter_model.safetensors").values()
    assert counts.bytes == 4 * sum(t.numel() for t in factors)

    with pytest.raises(CheckFailed, match=said):
        count_terms(counts, {name: change(terms(outcome)[name])}, Folder(path), torch.float32)
    with pytest.raises(CheckFailed, match="does not fit"):
        count_terms(counts, {"lm_head": terms(outcome)[name]}, Folder(path), torch.float32)


def test_factor_that_is_missing_is_refused(folder):
    file = folder[0] / "adapter/adapter_model.safetensors"
    tensors = load_file(file)
    del tensors[next(name for name in tensors if "lora_A" in name)]
    save_file(tensors, file)
    with pytest.raises(UserError, match="lacks factors"):
        loading.load(folder[0], Compute())


LOWRANK, ROUNDED = "lowrank:rank=8", "lowrank:rank=8:factors=int4"
AFTER = ("recon:from=lowrank/rank=8:epochs=1:lr=1e-4", "retrain:from=lowrank/rank=8")
FEW = {"calibration": {"sequences": 2, "seqlen": 32}, "perplexity": {"windows": 1}}
TRAINING = {"tokens": 512, "batch": 4, "seqlen": 32}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The results folder of rows with terms. Their cache is that of the module."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("rows")
        runs.own_cache(home, patch)
        methods = (LOWRANK, *AFTER, ROUNDED)
        runs.run_here(runs.small(home / "r", methods=methods, training=TRAINING, **FEW))
        rounded = {"methods": (LOWRANK,), "quantizers": ("int4-rtn",), "measures": ("size",)}
        runs.run_here(runs.small(home / "r", **rounded, **FEW), only=[f"sparsegpt + {LOWRANK}"])
        yield home / "r"


def folder_of(results, stage):
    """Return the folder of the model that ends with a stage, and its record."""
    rows = [r for r in ReadOnlyStore(results) if r.identity.measure == "perplexity"]
    (record,) = (r for r in rows if r.identity.stages[-1] == stage)
    return cache_dir() / "artifacts" / record.artifact[:32], record


@pytest.mark.parametrize("stage", sample(AFTER, AFTER[1]), ids=["recon", "retrain"])
def test_recon_and_retrain_train_both_parts_and_load_in_peft(stage, results):
    (before, _), (after, record) = (folder_of(results, name) for name in (LOWRANK, stage))

    old, new = low_rank_adapter.read(before), low_rank_adapter.read(after)
    assert old.keys() == new.keys()
    dense, sparse = Folder(before), Folder(after)
    for name in old:
        assert not any(map(torch.equal, old[name][:2], new[name][:2])), name
        was, weight = dense.weight(name), sparse.weight(name)
        assert torch.equal(weight != 0, was != 0) and not torch.equal(weight, was), name
    assert record.identity.pattern == "2:4 + r8"

    ids = torch.arange(32).view(1, 32)
    measured = loading.load(after, Compute())(input_ids=ids).logits
    base = AutoModelForCausalLM.from_pretrained(after, dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(base, after / "adapter").eval()
    assert torch.equal(theirs(input_ids=ids).logits, measured)


@pytest.mark.full
@pytest.mark.usefixtures("as_other_processes")
def test_two_processes_train_the_terms_of_one(tmp_path, cache):
    method, found = "retrain:from=lowrank/rank=4:lr=1e-4", []
    for count in (1, 2):
        asked = {"methods": (method,), "training": TRAINING | {"processes": count}}
        runs.run_here(runs.small(tmp_path / str(count), **asked, **FEW))
        found.append(folder_of(tmp_path / str(count), method)[0])
    one, two = found

    assert one != two
    for name, term in low_rank_adapter.read(one).items():
        for x, y in zip(term[:2], low_rank_adapter.read(two)[name][:2], strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=1e-5)


@torch.no_grad()
def test_streamed_model_has_the_terms_of_one_in_memory(folder, tmp_path):
    """lowrank adds them, and recon trains them, with one block in memory at a time."""
    path, _, job = folder
    dense = build("llama")
    write(dense, tmp_path / "dense")
    masks = {name: Folder(path).weight(name) != 0 for name in job.targets}
    job = replace(job, source=path, prior=Prior(folder=path, masks=masks))

    def trained(compute, workdir):
        model = loading.load(path, compute)
        teacher = partial(loading.load, tmp_path / "dense", compute)
        stage = replace(job, compute=compute, workdir=tmp_path / workdir, teacher=teacher)
        stage.workdir.mkdir()
        Recon(epochs=1).apply(model, stage)
        return terms_of(model, torch.float32)

    whole, streamed = trained(Compute(), "whole"), trained(Compute(stream=True), "streamed")
    assert low_rank_adapter.are_equal(whole, streamed)
    assert not low_rank_adapter.are_equal(whole, low_rank_adapter.read(path))


@torch.no_grad()
def test_recon_with_the_terms_ends_nearer_to_the_dense_blocks(folder):
    path, outcome, job = folder

    def error(rank):
        model = copy.deepcopy(outcome.model)
        if not rank:
            for factors in [m for m in model.modules() if isinstance(m, Factors)]:
                factors.a.zero_()
                factors.b.zero_()
        return Recon(epochs=2).apply(model, replace(job, source=path)).notes["block_error"]["after"]

    assert all(x < 0.9 * y for x, y in zip(error(rank=True), error(rank=False), strict=True))


def test_rows(results):
    rows = list(ReadOnlyStore(results))
    assert not [r.reason for r in rows if r.status != "ok"]
    by_row = {(r.identity.method, r.identity.quantizer, r.identity.measure): r for r in rows}
    first = f"sparsegpt + {LOWRANK}"
    found = {key[:2]: r.identity.pattern for key, r in by_row.items() if "lowrank" in key[0]}
    assert set(found.values()) == {"2:4 + r8"} and len(found) == 5
    size = {x.metric: x.value for x in by_row[first, "none", "size"].readings}
    factors = 4 * 8 * (4 * (128 + 128) + 3 * (128 + 352))
    weights = 4 * (4 * 128 * 128 + 3 * 128 * 352)
    assert size["adapter_bytes"] == 4 * factors
    assert size["bits_per_weight"] == pytest.approx(17 + 32 * factors / weights)
    half = {x.metric: x.value for x in by_row[f"sparsegpt + {ROUNDED}", "none", "size"].readings}
    scales = 4 * 8 * (4 * 2 + 3 * (1 + 11))  # 352 values in groups of 32
    assert half["adapter_bytes"] == factors / 2 + 2 * scales
    assert half["bytes"] == size["bytes"]
    packed, adapters = (size[n] - half[n] for n in ("bytes_packed", "adapter_bytes"))
    assert packed == adapters
    assert size["relative_flops"] == pytest.approx(0.5 + factors / weights)
    assert not folder_check.check_folder(results).problems
