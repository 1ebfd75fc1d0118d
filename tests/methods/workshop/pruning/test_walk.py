"""The walk gives each block the inputs that the whole model would, earlier blocks pruned."""

import weakref
from dataclasses import replace
from itertools import product

import pytest
import torch

from bench.catalog import registry
from bench.catalog.choice import build
from bench.inputs import loading
from helpers import layers, runs
from helpers.models import same_to_the_bit, sample
from methods.contract.codec import FloatCodec
from methods.contract.method import Compute
from methods.model.folder import Folder
from methods.model.targets import dense_weight, family_of
from methods.workshop.pruning import statistics
from methods.workshop.pruning.hessian import add_gram, symmetric
from methods.workshop.pruning.walk import Visit, Walk


def rows(x, total):
    """Collect all inputs."""
    return x.clone() if total is None else torch.cat([total, x])


def inputs_of(model, job):
    """Return the inputs of each target in a plain forward pass on all sequences."""
    seen = layers.inputs_of(model, job)
    for name in filter(is_expert, job.targets):
        width = dense_weight(model.get_submodule(name)).shape[1]
        if len(seen.get(name, ())) < width:
            seen[name] = torch.eye(width)
    return seen


def is_expert(name):
    return ".experts." in name


def same_inputs(name, a, b):
    """Compare inputs. The rows of an expert's inputs are in the order of the router's choice."""
    if is_expert(name):
        torch.testing.assert_close(a.T @ a, b.T @ b, rtol=1e-4, atol=1e-4)
    else:
        close(a, b)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.numeric
def test_pruning_nothing_reproduces_the_forward(family, make, make_job):
    model = make(family)
    job = make_job(model)

    walked = {}
    for visit in Walk(model, job, rows):
        walked[visit.name] = visit.stat
        assert visit.weight.shape[1] == visit.stat.shape[1]
        assert visit.weight.data_ptr() == dense_weight(model.get_submodule(visit.name)).data_ptr()

    want = inputs_of(model, job)
    assert walked.keys() == want.keys()
    for name, x in walked.items():
        same_inputs(name, x, want[name])
    family = family_of(model.config.to_dict())
    pairs = {(family.input_of(name), id(stat)) for name, stat in walked.items()}
    assert len(pairs) == len({of for of, _ in pairs}) == len({stat for _, stat in pairs})


@pytest.mark.parametrize("kind", sample(["mistral", "qwen2", "qwen3"], "qwen3"))
def test_sliding_window_is_seen(kind, make, make_job):
    """Use a window shorter than the sequences."""
    model = make(kind)
    job = make_job(model)
    walked = {visit.name: visit.stat for visit in Walk(model, job, rows)}
    model.config.sliding_window = 1000
    wide = {visit.name: visit.stat for visit in Walk(model, job, rows)}
    assert not torch.allclose(walked[job.targets[-1]], wide[job.targets[-1]], atol=1e-3)


@pytest.mark.numeric
@pytest.mark.parametrize("sequences", sample([1, 2, 4, 5], 4), ids=lambda n: f"batches of {n}")
def test_batching_does_not_matter(family, sequences, make, make_job):
    """6 sequences: with 4 or 5 to a batch the last is uneven."""
    model = make(family)
    job = make_job(model)
    want = {visit.name: symmetric(visit.stat) for visit in Walk(model, job, add_gram)}

    calls = []

    def add(x, total):
        calls.append(len(x))
        return add_gram(x, total)

    walk = Walk(model, job, add, batch=sequences)
    got = {visit.name: symmetric(visit.stat) for visit in walk}

    if not any(map(is_expert, job.targets)):  # whose rows are as many as the router sends
        assert set(calls) == {16 * sequences, 16 * (6 % sequences or sequences)}
    for name in want:
        torch.testing.assert_close(got[name], want[name], rtol=1e-4, atol=1e-4)


def test_blocks_see_pruned_predecessors_and_themselves_dense(family, make, make_job):
    model = make(family)
    job = make_job(model)
    dense = inputs_of(model, job)

    walked = {}
    for visit in Walk(model, job, rows):
        walked[visit.name] = visit.stat
        visit.prune(job.pattern.keep(visit.weight.abs()))

    each = len(job.targets) // 3
    first, second = job.targets[:each], job.targets[each : 2 * each]
    for name in first:
        same_inputs(name, walked[name], dense[name])
    for name in second:
        if len(dense[name]) == job.calibration.numel():
            assert not torch.allclose(walked[name], dense[name], atol=1e-3), name
    pruned = inputs_of(model, job)
    close(walked[second[0]], pruned[second[0]])


@pytest.mark.numeric
def test_reconstruction_error_is_taken_on_a_sample(llama, make_job, monkeypatch):
    """Take every thirteenth of 96 tokens, in two batches of 48."""
    job = make_job(llama, targets=("model.layers.1.mlp.down_proj",))
    (name,) = job.targets
    was = llama.get_submodule(name).weight.double().clone()
    monkeypatch.setattr(statistics, "SAMPLE_ROWS", 8)
    walk = Walk(llama, job, rows, batch=3)
    for visit in walk:
        x = visit.stat[::13].double()
        visit.prune(job.pattern.keep(visit.weight.abs()))

    change = llama.get_submodule(name).weight.double() - was
    want = (x @ change.T).norm() ** 2 / (x @ was.T).norm() ** 2
    assert walk.errors[name] == pytest.approx(float(want), rel=1e-4)


def test_without_calibration_the_error_is_that_of_white_noise(llama, job):
    was = {t: llama.get_submodule(t).weight.double().clone() for t in job.targets}
    walk = Walk(llama, replace(job, calibration=None))
    for visit in walk:
        visit.prune(job.pattern.keep(visit.weight.abs()))

    noted = walk.outcome().notes["reconstruction_error"]

    assert noted.keys() == set(job.targets)
    for name, weight in was.items():
        want = (llama.get_submodule(name).weight - weight).norm() ** 2 / weight.norm() ** 2
        assert noted[name] == pytest.approx(float(want), rel=1e-4)


def test_activations_are_let_go(llama, job):
    """Require copies of the sampled rows: views would keep all activations of a block."""
    alive, most = [], 0

    def accumulate(x, total):
        nonlocal most
        alive.append(weakref.ref(x._base))
        most = max(most, sum(ref() is not None for ref in alive))
        return add_gram(x, total)

    for _ in Walk(llama, job, accumulate, batch=1):
        pass

    assert len(alive) == 6 * 4 * 3
    assert most <= 4


def test_target_that_is_never_reached_raises(llama, job):
    layer = llama.model.layers[1]
    forward = layer.mlp.forward
    layer.mlp.forward = lambda x: forward(x) if x is None else x
    with pytest.raises(RuntimeError, match=r"did not reach .*layers\.1\.mlp\.down_proj"):
        list(Walk(llama, job, add_gram))


def test_failed_walk_leaves_the_model_whole(llama, job):
    """Blocks are back in their places and no hook is left, whatever the statistic raised."""
    before = inputs_of(llama, job)

    def fail(_x, _total):
        raise FloatingPointError

    with pytest.raises(FloatingPointError):
        list(Walk(llama, job, fail))

    assert type(llama.model.layers[0]).__name__ == "LlamaDecoderLayer"
    assert not any(module._forward_pre_hooks for module in llama.modules())
    after = inputs_of(llama, job)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_statistic_without_calibration_is_refused(llama, job):
    with pytest.raises(RuntimeError, match="CALIBRATION"):
        list(Walk(llama, replace(job, calibration=None), add_gram))


METHODS = {name: (name, {}) for name in runs.PRUNERS}
METHODS["recon"] = ("recon", {"epochs": 1})
METHODS["mask-only"] = ("sparsegpt", {"mask_only": True})
METHODS["int4-gptq"] = ("int4-gptq", {})
FEW = [label for label in METHODS if label not in ("ria", "admm", "alps")]
"""Without what walks as Wanda or SparseGPT do."""
ALL = product(("llama", "gpt2", "gpt_neox"), METHODS, (torch.float32, torch.bfloat16))


@pytest.mark.parametrize(
    ("kind", "label", "dtype"),
    sample(ALL, ("gpt2", "sparsegpt", torch.bfloat16), *product(["llama"], FEW, [torch.float32])),
)
def test_streaming_from_disk_is_the_same_to_the_bit(
    kind, label, dtype, make, keep_as, make_job, refining, tmp_path
):
    on_disk = keep_as(make(kind), tmp_path / "source")
    name, config = METHODS[label]
    section = "quantizers" if "gptq" in name else "methods"
    method = build(registry.lookup(section, name), name, config)
    compute = Compute(dtype=dtype)
    whole = loading.load(on_disk, compute)
    job = make_job(whole, source=on_disk, compute=compute, workdir=tmp_path)
    job = refining(whole, job)
    memory = method.apply(whole, job)
    streaming = Compute(stream=True, dtype=dtype)
    skeleton = loading.load(on_disk, streaming)
    assert any(p.is_meta for p in skeleton.parameters())

    teacher = lambda: loading.load(on_disk, streaming)  # noqa: E731
    streamed = method.apply(skeleton, replace(job, compute=streaming, teacher=teacher))

    assert streamed.notes == memory.notes
    same_to_the_bit(streamed, memory, on_disk)
    for block in skeleton.get_submodule(family_of(skeleton.config.to_dict()).blocks):
        stored = block.state_dict()  # without the factors of a low-rank term, which stay in memory
        assert all(p.is_meta for name, p in block.named_parameters() if name in stored)


def test_a_mask_or_a_codec_of_another_type_or_shape_is_refused():
    visit = Visit("q", torch.ones(2, 4), torch.empty(0), {})
    for mask in (torch.ones(2, 4), torch.ones(4) == 1, torch.ones(4, 2) == 1):
        with pytest.raises(TypeError, match=r"mask of q is torch.*: give torch\.bool \[2, 4\]"):
            visit.prune(mask)
    with pytest.raises(TypeError, match=r"'float' decodes q to \[4\]: its weight is \[2, 4\]"):
        visit.store(FloatCodec(), {"values": torch.ones(4)})


def test_stored_parts_are_copies():
    values, visit = torch.ones(2, 4), Visit("q", torch.ones(2, 4), torch.empty(0), {})
    visit.store(FloatCodec(), {"values": values})
    values.zero_()
    assert visit.stored["q"].parts["values"].all()


@pytest.mark.parametrize("streamed", [False, True], ids=["in memory", "streamed"])
@pytest.mark.parametrize("kind", ["gpt2", "mixtral"])
def test_no_negative_zero_that_a_method_leaves_is_kept(
    kind, streamed, make, keep_as, make_job, tmp_path
):
    """Count -0.0 as a fault: in packed formats it would be a weight."""
    source, compute = keep_as(make(kind), tmp_path / "source"), Compute(stream=streamed)
    model = loading.load(source, compute)
    job = make_job(model, source=source, compute=compute, workdir=tmp_path)
    walk = Walk(model, job, add_gram)

    for visit in walk:
        visit.weight[:, ::2] = -0.0

    result = walk.outcome().model if streamed else keep_as(model, tmp_path / "result")
    (result / "config.json").write_bytes((source / "config.json").read_bytes())
    for target in job.targets:
        weight = Folder(result).weight(target)
        assert not weight[:, ::2].any() and not weight[:, ::2].signbit().any(), target
