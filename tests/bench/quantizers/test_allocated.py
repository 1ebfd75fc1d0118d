"""A quantizer for each linear: each has the weights that its quantizer gives it alone."""

import copy
import dataclasses
import hashlib
import json
import re

import pytest
import torch

from bench.catalog.choice import parse_quantizer
from bench.quantizers.allocated import Allocated
from bench.quantizers.gptq import Int3Gptq
from bench.quantizers.rounding import Int8
from methods.errors import UserError
from methods.quantizing.grids import group_size
from methods.quantizing.stored import STORED_KEY


@pytest.fixture
def job(llama, make_job):
    job = make_job(llama, "dense")
    return dataclasses.replace(job, targets=job.targets[:7])


def write(file, targets, names=("int3-gptq", "int8")):
    linears = {target: names[i % 2] for i, target in enumerate(targets)}
    file.write_text(json.dumps({"linears": linears}))
    return file, linears


def test_each_linear_has_the_weights_of_its_quantizer(llama, job, tmp_path):
    file, linears = write(tmp_path / "a.json", job.targets)
    alone = {kind.name: kind().apply(copy.deepcopy(llama), job).model for kind in (Int3Gptq, Int8)}

    outcome = Allocated(str(file)).apply(llama, job)

    shapes = {}
    for target, name in linears.items():
        weight = outcome.model.get_submodule(target).weight
        assert torch.equal(weight, alone[name].get_submodule(target).weight), target
        shapes[target] = tuple(weight.shape)
    stored, total = outcome.notes[STORED_KEY], sum(out * width for out, width in shapes.values())
    values = sum((3 if linears[t] == "int3-gptq" else 8) * out * width for t, (out, width) in shapes.items())
    groups = {t: width // group_size(width, None, 128, "x") for t, (_, width) in shapes.items()}
    scales = sum(16 * out * (groups[t] if linears[t] == "int3-gptq" else 1) for t, (out, _) in shapes.items())
    assert stored["bits"] == pytest.approx(values / total)
    assert stored["scale_bits"] * stored["scales"] == scales
    assert outcome.notes["allocation"] == {"int3-gptq": 4, "int8": 3}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read as an allocation"),
        ("[", "cannot be read as an allocation"),
        ("{}", "names other linears than the 7 of this run"),
        (("int8", "w8a8"), "names the quantizer 'w8a8': use int8, fp8"),
        ("changed", "has changed since the run was planned"),
    ],
)
def test_a_file_that_does_not_fit_is_a_sentence(content, said, llama, job, tmp_path):
    file, digest = tmp_path / "a.json", ""
    if isinstance(content, tuple):
        write(file, job.targets, content)
    elif content == "changed":
        digest = hashlib.sha256(b"before").hexdigest()
        write(file, job.targets)
    elif content:
        file.write_text(content)
    with pytest.raises(UserError, match=re.escape(said)):
        Allocated(str(file), digest).apply(llama, job)


def test_a_file_must_be_named():
    with pytest.raises(UserError, match="allocated reads its settings from a file: name it, allocated:file=FILE"):
        parse_quantizer("allocated")
