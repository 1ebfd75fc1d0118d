"""The paired walk: what each block is given and should give, by running whole models."""

import copy
from dataclasses import replace

import pytest
import torch

from bench.inputs import loading
from helpers.layers import block_calls
from helpers.models import same_to_the_bit
from helpers.trainings import pruned
from methods.contract.method import Compute
from methods.workshop.pruning.pairs import PairedWalk


@pytest.mark.parametrize("goal", ["dense", "own-input"])
def test_goals_are_those_of_whole_models(family, make, make_job, refining, goal):
    dense = make(family)
    job = refining(dense, make_job(dense))
    model = pruned(dense, job)
    walk = PairedWalk(model, job, goal=goal, batch=2)

    pairs = [(p.name, p.inputs, p.goals, p.block) for p in walk.pairs()]

    path = pairs[0][0].rpartition(".")[0]
    own, other = (block_calls(m, job.calibration) for m in (model, dense))
    assert len(pairs) == walk.blocks == 3
    for i, (name, inputs, goals, _) in enumerate(pairs):
        assert name == f"{path}.{i}" and [len(part) for part in inputs] == [2, 2, 2]
        torch.testing.assert_close(torch.cat(inputs), own[i][0])
        if goal == "dense":
            torch.testing.assert_close(torch.cat(goals), other[i][1])
    if goal == "own-input":
        mixed = copy.deepcopy(model)
        mixed.get_submodule(path)[1] = dense.get_submodule(path)[1]
        _, want = block_calls(mixed, job.calibration)[1]
        torch.testing.assert_close(torch.cat(pairs[1][2]), want)


def test_next_block_gets_what_the_changed_block_gives(llama, make_job, refining):
    job = refining(llama, make_job(llama))
    inputs = []

    for pair in PairedWalk(llama, job, goal="dense").pairs():
        inputs.append(torch.cat(pair.inputs))
        for p in pair.block.parameters():
            p.mul_(0.5)

    expected = block_calls(llama, job.calibration)
    for got, (given, _) in zip(inputs, expected, strict=True):
        torch.testing.assert_close(got, given)


def test_outputs_that_the_loop_set_are_passed_on(llama, make_job, refining):
    job = refining(llama, make_job(llama))
    marks = [torch.full((6, 16, 32), float(i)) for i in range(3)]
    seen = []
    for i, pair in enumerate(PairedWalk(llama, job, goal="dense", batch=6).pairs()):
        seen.append(pair.inputs[0])
        pair.outputs = [marks[i]]
    assert seen[1] is marks[0] and seen[2] is marks[1]


def test_streamed_model_sees_the_same(llama, make_job, refining, keep_as, tmp_path):
    """And what was changed in each block is in the folder that comes back."""
    job = refining(llama, make_job(llama))
    dense = keep_as(llama, tmp_path / "dense")
    sparse = keep_as(pruned(llama, job), tmp_path / "sparse")

    def run(stream):
        compute = Compute(stream=stream)
        there = replace(job, source=sparse, workdir=tmp_path, compute=compute)
        there = replace(there, teacher=lambda: loading.load(dense, compute))
        walk = PairedWalk(loading.load(sparse, compute), there, goal="dense")
        figures = []
        for pair in walk.pairs():
            figures += [*pair.inputs, *pair.goals]
            for p in pair.block.parameters():
                p.mul_(0.5)
        return figures, walk.outcome(frozenset({"a"}), note=1)

    (here, kept), (there, streamed) = run(False), run(True)

    for a, b in zip(here, there, strict=True):
        assert torch.equal(a, b)
    assert streamed.changed == {"a"} and streamed.notes == {"note": 1}
    same_to_the_bit(streamed, kept, dense)


def test_needs_calibration(llama, make_job, refining):
    job = replace(refining(llama, make_job(llama)), calibration=None)
    with pytest.raises(RuntimeError, match="CALIBRATION"):
        PairedWalk(llama, job, goal="dense")


@pytest.mark.parametrize("goal", ["dense", "own-input"])
@pytest.mark.parametrize("kept", [(0, 2), (1,)])
def test_blocks_of_a_shorter_model_keep_their_partners(goal, kept, llama, make_job, refining):
    job = replace(refining(llama, make_job(llama)), blocks=kept)
    short = copy.deepcopy(llama)
    short.model.layers = torch.nn.ModuleList(short.model.layers[i] for i in kept)
    for i, block in enumerate(short.model.layers):
        block.mlp.down_proj.weight.mul_(0.5)
        block.self_attn.layer_idx = i
    job = replace(job, targets=tuple(t for t in job.targets if int(t.split(".")[2]) < len(kept)))

    walk = PairedWalk(short, job, goal=goal, batch=2)
    pairs = [(torch.cat(p.inputs), torch.cat(p.goals)) for p in walk.pairs()]

    own, dense = (block_calls(m, job.calibration) for m in (short, llama))
    assert len(pairs) == len(kept)
    for i, ((inputs, goals), old) in enumerate(zip(pairs, kept, strict=True)):
        torch.testing.assert_close(inputs, own[i][0])
        if goal == "dense":
            torch.testing.assert_close(goals, dense[old][1])
        else:
            mixed = copy.deepcopy(short)
            mixed.model.layers[i] = copy.deepcopy(llama.model.layers[old])
            torch.testing.assert_close(goals, block_calls(mixed, job.calibration)[i][1])
