"""Mask files in the format of MaskLLM's authors. Any other file is refused."""

import io
import json
import os
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from baselines.maskllm import MaskLLM
from bench import api
from bench.catalog.choice import parse_method
from bench.catalog.entries import METHODS
from helpers import runs
from helpers.limits import limits
from helpers.trainings import weight_of
from methods.contract.errors import UserError
from methods.contract.method import Prior
from methods.contract.pattern import Pattern
from methods.model.folder import Folder
from methods.model.targets import find_targets


def bits_of(model, job):
    """Return a random mask for each target of a llama: name in the file -> bool."""
    return {
        f"{t}.weight.mask": job.pattern.keep(torch.rand_like(weight_of(model, t))).numpy()
        for t in job.targets
    }


def released(path, bits):
    """Written as NVlabs' tool_compress_mask.py does."""
    packed = {name: np.packbits(mask.astype(bool)) for name, mask in bits.items()}
    np.savez_compressed(path, **packed)
    return path


def apply(model, job, path, **config):
    return MaskLLM(file=str(path), **config).apply(model, job)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_what_is_kept_is_what_the_file_says(family, make, make_job, tmp_path):
    model = make(family)
    job = make_job(model)
    masks = {t: job.pattern.keep(torch.rand_like(weight_of(model, t))) for t in job.targets}
    in_files = {t: m.T if family == "gpt2" else m for t, m in masks.items()}
    bits = {f"{t}.weight.mask": m.numpy() for t, m in in_files.items()}
    before = {n: p.clone() for n, p in model.named_parameters()}

    outcome = apply(model, job, released(tmp_path / "mask_compressed.npz", bits))

    for name, was in before.items():
        keep = masks.get(name.removesuffix(".weight"))
        expected = was if keep is None else was.masked_fill(~keep, 0)
        assert torch.equal(outcome.model.get_parameter(name), expected), name
    assert outcome.changed == frozenset()
    assert outcome.notes["mask_file"] == "mask_compressed.npz"


def with_member(path, name, data):
    """Replace, add or (data is None) remove one member of a file."""
    with zipfile.ZipFile(path) as old:
        members = {n: old.read(n) for n in old.namelist()}
    members.pop(name, None)
    if data is not None:
        members[name] = data
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for n, b in members.items():
            new.writestr(n, b)
    return path


def npy(array, **options):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, **options)
    return stream.getvalue()


def lying(shape, packed):
    """Return a vector of the right size with another shape in its header."""
    honest = npy(np.zeros(packed, np.uint8))
    claim, was = f"({shape},)".encode(), f"({packed},)".encode()
    padding = len(claim) - len(was)
    return honest.replace(was, claim, 1).replace(b" " * padding + b"\n", b"\n", 1)


FIRST = "model.layers.0.self_attn.q_proj.weight.mask"  # of the test llama: 32 x 32
PACKED = 32 * 32 // 8


def zeros(*shape, dtype=np.uint8):
    return np.zeros(shape, dtype)


WRONG = [
    (None, rf"mask {FIRST} is missing"),
    (npy(zeros(PACKED - 1)), r"uint8 \[127\] for .*q_proj instead of uint8 \[128\]"),
    (npy(zeros(50_000_000)), r"50,000,128 bytes for .*q_proj, whose 32x32 bits take 128"),
    (npy(zeros(PACKED, dtype=np.int8)), r" int8 \[128\] for .*q_proj instead of uint8"),
    (npy(zeros(PACKED // 2, 2)), r"uint8 \[64, 2\] for .*q_proj instead of uint8"),
    (lying(10**15, PACKED), r"uint8 \[1000000000000000\] for .*q_proj instead of uint8"),
    (npy(np.array([{}] * 8, object), allow_pickle=True), r"object \[8\] for .*q_proj instead"),
    (npy(zeros(PACKED), version=(2, 0)), r"damaged at .*q_proj \(unexpected version"),
    (b"no numpy at all" * 20, r"damaged at .*q_proj"),
    (npy(np.full(PACKED, 255, np.uint8)), r"2:4 does not hold in 256 groups of .*q_proj"),
]


@pytest.mark.parametrize(("data", "words"), WRONG)
def test_what_is_wrong_is_a_sentence(data, words, llama, job, tmp_path):
    path = released(tmp_path / "m.npz", bits_of(llama, job))
    before = weight_of(llama, job.targets[0]).clone()
    with pytest.raises(UserError, match=words) as fault:
        apply(llama, job, with_member(path, f"{FIRST}.npy", data))
    assert "\n" not in str(fault.value)
    assert torch.equal(before, weight_of(llama, job.targets[0]))


def test_another_models_masks_are_not_its(llama, job, tmp_path):
    path = released(tmp_path / "m.npz", bits_of(llama, job))
    with_member(path, FIRST.replace("layers.0", "layers.9") + ".npy", npy(zeros(PACKED)))
    with pytest.raises(UserError, match=r"'model\.layers\.9.*' is not a mask of this model's"):
        apply(llama, job, path)


def test_what_is_no_file_of_masks_is_refused(llama, job, tmp_path):
    (tmp_path / "text.npz").write_text("hello")
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(ValueError, match="not an npz file"):
        apply(llama, job, tmp_path / "text.npz")
    with pytest.raises(UserError, match=r"^cannot read mask file .*: No such file"):
        apply(llama, job, tmp_path / "nowhere.npz")
    for path in (tmp_path / "pipe.npz", "/dev/zero"):
        with limits(), pytest.raises(UserError, match="not a regular file"):
            parse_method(f"maskllm:file={path}")


def test_a_prior_beside_a_file_and_another_digest(llama, job, tmp_path):
    path = released(tmp_path / "m.npz", bits_of(llama, job))
    with pytest.raises(UserError, match=r"checksum mismatch: .* and not 000000000000…"):
        apply(llama, job, path, sha256="0" * 64)
    with pytest.raises(UserError, match="file= and from= cannot be combined"):
        apply(llama, replace(job, prior=Prior(folder=tmp_path, masks={})), path)


def of_tiny(path, seed):
    folder = Folder(runs.TINY)
    shapes = folder.shapes()
    rng, bits = torch.Generator().manual_seed(seed), {}
    for target in find_targets(folder.config, shapes):
        score = torch.rand(shapes[f"{target}.weight"], generator=rng)
        bits[f"{target}.weight.mask"] = Pattern(2, 4).keep(score).numpy()
    return released(path, bits)


def test_a_run_with_a_file_trains_nothing_and_knows_the_file_by_its_content(tmp_path, cache):
    path = tmp_path / "masks.npz"
    method = f"maskllm:file={path}"
    spec = runs.small(tmp_path / "r", methods=(method,))
    of_tiny(path, 0)
    runs.run_here(spec, only=(method,))
    found = runs.records(spec.results)
    record = found[method, None, "perplexity"]
    assert record.status == "ok" and record.identity.labels()["training"] is None
    assert found[method, None, "pattern"].cost["training_tokens"] == 0
    assert record.key in {m.key for m in api.plan(spec).measurements}
    of_tiny(path, 1)
    assert record.key not in {m.key for m in api.plan(spec).measurements}


def test_only_the_named_field_spares_the_training():
    entry = METHODS["maskllm"]
    assert entry.needs_with({"file": "x"}) == ()
    assert entry.needs_with({"lr": 1.0}) == entry.needs
    assert METHODS["cast"].needs_with({"file": "x"}) == METHODS["cast"].needs
    assert json.loads(json.dumps(parse_method("maskllm:file=a.npz").config)) == {"file": "a.npz"}
