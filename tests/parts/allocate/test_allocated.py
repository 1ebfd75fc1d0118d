"""A choice for each linear: each has the weights that its pruner and quantizer give it alone."""

import copy
import dataclasses
import hashlib
import json
import re
from contextlib import nullcontext
from functools import partial

import pytest
import torch

from bench import api
from bench.catalog.choice import parse_quantizer
from bench.parts.allocate.allocated import Allocated, LinearChoice, code_of, parse_pruner
from bench.quantizers.gptq import Int3Gptq
from bench.quantizers.rounding import Int8
from helpers import runs
from helpers.models import store
from methods.contract.errors import UserError
from methods.contract.method import Outcome
from methods.contract.pattern import Pattern


@pytest.fixture
def job(llama, make_job):
    job = make_job(llama, "dense")
    return dataclasses.replace(job, targets=job.targets[:7])


def write(file, targets, names=("int3-gptq", "int8"), **others):
    linears = {target: names[i % len(names)] for i, target in enumerate(targets)}
    file.write_text(json.dumps({"linears": linears} | others))
    return file, linears


def is_as(outcome, linears, alone, folder):
    """Compare the weights and stored bytes of each linear with those of its choice alone."""
    stored, kept = store(outcome.stored, folder / "model"), {}
    for name, own in alone.items():
        pattern = str(LinearChoice.parse(name).pattern)
        kept[name] = store(own.stored, folder / name, pattern)
    for target, name in linears.items():
        weight = outcome.model.get_submodule(target).weight
        assert torch.equal(weight, alone[name].model.get_submodule(target).weight), target
        if target in kept[name]:
            assert stored.sizes(target) == kept[name].sizes(target)


@pytest.mark.parts("codebooks")
def test_each_linear_has_the_weights_of_its_quantizer(llama, job, tmp_path):
    from bench.parts.codebooks.trellis import Tcq2

    names = ("int3-gptq", "int8", "tcq2:memory=9")
    file, linears = write(tmp_path / "a.json", job.targets, names)
    alone = {}
    for kind in (Int3Gptq, Int8, partial(Tcq2, memory=9)):
        alone[names[len(alone)]] = kind().apply(copy.deepcopy(llama), job)

    outcome = Allocated(str(file)).apply(llama, job)

    is_as(outcome, linears, alone, tmp_path)
    assert outcome.notes["allocation"] == {"int3-gptq": 3, "int8": 2, "tcq2:memory=9": 2}


def test_zeros_of_a_pruned_model_stay(llama, make_job, tmp_path):
    """GPTQ would fill them: it changes weights to make up for the rounding of others."""
    job = make_job(llama, "2:4")
    parse_pruner("magnitude").apply(llama, job)
    file, _ = write(tmp_path / "a.json", job.targets, ("int3-gptq",))

    Allocated(str(file)).apply(llama, job)

    assert not any(
        Pattern(2, 4).violations(llama.get_submodule(target).weight) for target in job.targets
    )


def test_a_linear_with_a_pattern_is_pruned_and_then_quantized(llama, job, tmp_path):
    pruner = {"method": "wanda", "code": code_of("wanda", "methods")}
    file, linears = write(
        tmp_path / "a.json", job.targets, ("2:4+int3-gptq", "1:4", "dense"), pruner=pruner
    )
    wanda, alone = parse_pruner("wanda"), {"dense": Outcome(copy.deepcopy(llama))}
    for name, pattern in (("1:4", Pattern(1, 4)), ("2:4+int3-gptq", Pattern(2, 4))):
        own = dataclasses.replace(job, pattern=pattern)
        alone[name] = wanda.apply(copy.deepcopy(llama), own)
        if "+" in name:
            alone[name] = Int3Gptq().apply(alone[name].model, own)

    outcome = Allocated(str(file)).apply(llama, job)

    is_as(outcome, linears, alone, tmp_path)
    with pytest.raises(UserError, match=r"this model is pruned to 2:4: use --methods dense"):
        Allocated(str(file)).apply(llama, dataclasses.replace(job, pattern=Pattern(2, 4)))


@pytest.mark.parametrize(
    ("text", "pattern", "quantizer"),
    [("int8", "dense", "int8"), ("2:4", "2:4", "none"), ("6:8+int4-rtn", "6:8", "int4-rtn")],
)
def test_a_choice_is_a_pattern_a_quantizer_or_both(text, pattern, quantizer):
    assert LinearChoice.parse(text) == (Pattern.parse(pattern), quantizer)


@pytest.mark.parametrize("text", ["cast", "recon", "dense", "depth", "maskfile"])
def test_a_pruner_is_a_one_shot_method(text):
    with pytest.raises(UserError):
        parse_pruner(text)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read as an allocation"),
        ("[", "cannot be read as an allocation"),
        ("{}", "has no object 'linears'"),
        ('{"linears": {"a": "int8"}}', "names other linears than the 7 of this run"),
        (("int8", "tcq5"), "unknown quantizer 'tcq5'"),
        (("int8", "2:4+w8a8"), "w8a8 cannot be the choice of a linear"),
        (("int8", "int8:embed=int4"), "int8:embed=int4 cannot be the choice of a linear"),
        (("int8", "int4-awq"), "int4-awq cannot be the choice of a linear"),
        (("int8", "kv8"), "kv8 cannot be the choice of a linear"),
        (("int8", "5:4"), "n must be from 1 to m"),
        (("int8", "2:4"), "has the choice 2:4 and names no pruner"),
        (("int8", "2:4", "other code"), "is of another version of magnitude"),
        ("code", "is of another version of int8: write it again"),
        ("changed", "has changed since the run was planned"),
    ],
)
def test_a_file_that_does_not_fit_is_a_sentence(content, said, llama, job, tmp_path):
    file, digest = tmp_path / "a.json", ""
    if isinstance(content, tuple):
        others = {"pruner": {"method": "magnitude", "code": "0"}} if content[2:] else {}
        write(file, job.targets, content[:2], **others)
    elif content == "code":
        write(file, job.targets, ("int8",), code={"int8": "0"})
    elif content == "changed":
        digest = hashlib.sha256(b"before").hexdigest()
        write(file, job.targets)
    elif content:
        file.write_text(content)
    with pytest.raises(UserError, match=re.escape(said)):
        Allocated(str(file), digest).apply(llama, job)


def test_a_file_must_be_named():
    with pytest.raises(
        UserError, match="allocated reads its settings from a file: name it, allocated:file=FILE"
    ):
        parse_quantizer("allocated")


LINEARS = {f"model.layers.0.mlp.{part}_proj": "int8" for part in ("gate", "up", "down")}
OTHERS = {"linears": {"a": "int8"}}
WHOLE = {
    "linears": LINEARS,
    "pruner": {"method": "magnitude", "code": code_of("magnitude", "methods")},
}
PRUNED = WHOLE | {"linears": dict.fromkeys(LINEARS, "2:4")}


@pytest.mark.parametrize(
    ("content", "why", "method"),
    [
        ({}, "has no object 'linears'", "dense"),
        (OTHERS, "names other linears than the 3 of this run", "dense"),
        (OTHERS, None, "depth"),  # which linears are left is known when it has run
        (WHOLE, None, "magnitude"),
        (PRUNED, "prunes linears, and this model is pruned to 2:4", "magnitude"),
        (PRUNED, None, "dense"),
    ],
)
def test_a_settings_file_is_read_before_anything_is_loaded(content, why, method, tmp_path):
    file = tmp_path / "a.json"
    file.write_text(json.dumps(content))
    asked = {"methods": (method,), "quantizers": (f"allocated:file={file}",)}
    spec = runs.small("r", **asked, targets={"include": ["*.0.mlp.*"]})
    with pytest.raises(UserError, match=why) if why else nullcontext():
        assert api.plan(spec).measurements
