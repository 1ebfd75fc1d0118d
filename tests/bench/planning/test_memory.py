"""What a model takes that is streamed, from shapes: the arithmetic against the model itself."""

import pytest

from bench import api
from bench.inputs import loading
from bench.planning import memory, refusal
from helpers import models, runs
from methods.contract.method import LIBRARY_BYTES, Compute
from methods.model.targets import family_of
from methods.workshop.pruning.holders import hold


@pytest.fixture(
    params=models.sample(["llama", "gpt2", "mixtral", "qwen3_moe", "gpt_oss"], "llama", "mixtral")
)
def folder(request, tmp_path):
    return models.random_folder(request.param, tmp_path / request.param)


def artifact(folder, **changes):
    plan = api.plan(runs.small("r", models=(str(folder),), **changes))
    return next(m.artifact for m in plan.measurements if m.artifact.method != "dense")


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_weights_in_memory_are_those_of_the_walk(folder):
    model = loading.load(folder, Compute(stream=True))
    found = artifact(folder, methods=("magnitude",), stream=True)

    got = memory.streamed_bytes(found)
    assert got == LIBRARY_BYTES + 4 * hold(model, folder, Compute(stream=True)).parameters


def test_processes_that_share_a_calibration_have_whole_blocks_and_their_part_of_the_activations(
    tmp_path,
):
    """Of a mixture: two blocks with all experts, and one copy of what their sequences give."""
    folder = models.random_folder("mixtral", tmp_path / "m")
    model = loading.load(folder, Compute(stream=True))
    blocks = model.get_submodule(family_of(model.config.to_dict()).blocks)
    outside = sum(p.numel() for p in set(model.parameters())) - count(blocks)
    draw = {"sequences": 6, "seqlen": 16, "processes": 4}
    found = artifact(folder, methods=("wanda",), stream=True, calibration=draw)

    weights, states = 4 * (outside + 2 * count(blocks[0])), 4 * 2 * 16 * 32
    assert memory.streamed_bytes(found) == LIBRARY_BYTES + weights + states


@pytest.mark.parametrize(
    ("family", "copies", "squares"), [("llama", 1, 3 * 32**2), ("mixtral", 4, 32**2)]
)
def test_activations_and_hessians_count(family, copies, squares, tmp_path):
    """6 x 16 tokens, of which a walk by expert keeps four copies; a Hessian of each input, and two
    copies of the largest.

    Of a llama's block the inputs are those of q, k and v, of o, of gate and up, and of down; of an
    expert, the last two.
    """
    folder = models.random_folder(family, tmp_path / "m")
    draw = {"sequences": 6, "seqlen": 16}
    of = {}
    for name in ("magnitude", "wanda", "sparsegpt"):
        found = artifact(folder, methods=(name,), stream=True, calibration=draw)
        of[name] = memory.streamed_bytes(found)

    states, hessians = copies * 4 * 6 * 16 * 32, 4 * (squares + 64**2 + 2 * 64**2)

    assert of["wanda"] - of["magnitude"] == states
    assert of["sparsegpt"] - of["wanda"] == hessians


def test_max_memory_streams_and_puts_activations_on_disk(tmp_path):
    folder = models.random_folder("mixtral", tmp_path / "m")
    draw = {"sequences": 6, "seqlen": 16}
    plain = artifact(folder, methods=("wanda",), calibration=draw)
    limited = plain.model_copy(update={"max_memory": memory.model_bytes(plain) / 1e9})
    enough = 1.01 * memory.model_bytes(plain) / 1e9 / memory.STREAMED_FROM
    wide = plain.model_copy(update={"max_memory": enough})
    of_two = wide.calibration.model_copy(update={"processes": 2})
    shared = wide.model_copy(update={"calibration": of_two})

    assert [memory.is_streamed(a) for a in (plain, limited, wide)] == [False, True, False]
    assert memory.is_streamed(shared), "the limit is of all processes together"
    assert memory.streamed_bytes(plain) - memory.streamed_bytes(limited) == 4 * 4 * 6 * 16 * 32
    streamed = memory.streamed_bytes(limited)
    assert memory.estimate_bytes(limited) == streamed < memory.estimate_bytes(plain)


def test_a_whole_block_is_said_and_counted(tmp_path, cli):
    folder = models.random_folder("mixtral", tmp_path / "m")
    whole = artifact(folder, methods=("recon:from=wanda",), stream=True)
    others = artifact(folder, methods=("wanda",), stream=True)

    assert memory.keeps_blocks(whole) == "recon:from=wanda" and not memory.keeps_blocks(others)
    assert memory.streamed_bytes(whole) > memory.streamed_bytes(others)
    code, _, err = cli(
        "plan --model", str(folder), "--methods", "recon:from=wanda", "--measures", "size",
        "--set", "stream=true"
    )  # fmt: skip
    assert code == 0 and "recon:from=wanda keeps whole blocks of" in err


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("wanda", "use --dtype bfloat16, fewer calibration.sequences, "),
        ("recon:from=wanda", "keeps whole blocks with all"),
    ],
)
def test_what_does_not_fit_streamed_is_refused(method, words, tmp_path, monkeypatch):
    folder = models.random_folder("mixtral", tmp_path / "m")
    found = artifact(folder, methods=(method,), stream=True)
    monkeypatch.setattr(refusal, "memory_bytes", lambda: 1.0001e9 / refusal.SHARE)

    problem = refusal.find_problem(found)

    assert words in problem and "streamed, and this machine has 1.0 GB" in problem


@pytest.mark.parametrize(
    ("family", "words"),
    [("mixtral", "which brings it expert by expert"), ("llama", "which brings it block by block")],
)
def test_a_model_that_would_fit_streamed_is_told_how(family, words, tmp_path, monkeypatch):
    found = artifact(models.random_folder(family, tmp_path / "m"), methods=("magnitude",))
    between = (memory.streamed_bytes(found) + LIBRARY_BYTES + memory.model_bytes(found)) / 2
    monkeypatch.setattr(refusal, "memory_bytes", lambda: between / refusal.SHARE)

    assert f"--set stream=true, {words}" in refusal.find_problem(found)


def test_a_training_on_a_cpu_keeps_what_a_micro_batch_needs(tmp_path):
    """Of each sequence: activations of every block, and logits up to a limit."""
    folder = models.random_folder("llama", tmp_path / "m")
    training = {"tokens": 4 * 64, "seqlen": 16, "batch": 4}
    took, limited = [], []
    for micro in (1, 3):
        found = artifact(folder, methods=("retrain",), training=training | {"micro": micro})
        took.append(memory.estimate_bytes(found))
        many = found.sizes.model_copy(update={"vocabulary": 10**7})
        limited.append(memory.estimate_bytes(found.model_copy(update={"sizes": many})))

    parts, tokens = found.sizes, 2 * 16
    activations = tokens * parts.hidden * parts.blocks * memory.EAGER_BYTES["float32"]
    logits = tokens * parts.vocabulary * memory.LOGITS_BYTES
    assert took[1] - took[0] == pytest.approx(activations + logits)
    assert limited[1] - limited[0] == pytest.approx(activations)
