"""Several processes train what one does, and none of them holds the whole."""

import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from bench import api
from bench.execution import job
from helpers import forked_ranks, runs, several_ranks
from helpers.models import job_for, sample, write
from helpers.several_ranks import NOTED_EVERY, RATE, STEPS
from helpers.trainings import LAST_DIGIT, counting, job_to_train, method
from methods.model.folder import Folder

DAILY = ("cast:wanda-mask", "gpt2")
NIGHTLY = {
    "llama": ("cast", "sr-ste", "elsa"),
    "gpt2": ("cast", "retrain", "proxsparse", "maskllm"),
}
ALL = [DAILY, *((name, family) for family, names in NIGHTLY.items() for name in names)]


TRAINING = {"tokens": 4096, "batch": 8, "seqlen": 32}
STOPPED = "cast,gpt2"
"""Training that two processes do not finish."""


@pytest.fixture(scope="module")
def two(request, tmp_path_factory):
    """Return the folder with the results of two processes for each pair of this session."""
    out = tmp_path_factory.mktemp("two")
    items = [i for i in request.session.items if i.path == request.path and "[" in i.name]
    pairs = {",".join(item.callspec.params[part] for part in ("name", "family")) for item in items}
    forked_ranks.launch(several_ranks, 2, out, *sorted(pairs), f"stop={STOPPED}")
    return out


@pytest.fixture
def half(two):
    """Return the checkpoints of a training that two processes did not finish."""
    work = two / "stop" / STOPPED / "work"
    assert [p.name for p in work.glob("step-*")] == ["step-6"]
    return work


@pytest.mark.parametrize(("name", "family"), sample(ALL, DAILY))
def test_two_ranks_equal_one_process(name, family, two, tmp_path, make_exact):
    """Compare in float64. Two ranks sum gradients in another order, and Adam divides the rounding,
    1e-16, by at least 1e-8.
    """
    require_equal(two / f"{name},{family}", undisturbed(name, family, tmp_path, make_exact))


def undisturbed(name, family, work, make_exact):
    """Train in one process without interruption."""
    return train(name, make_exact(family), work / "one")


def train(name, model, work):
    options = {"steps": STEPS, "budget": {"log_every": NOTED_EVERY}}
    job = job_to_train(model, job_for, counting(), work, **options)
    return method(name, **RATE).apply(model, job)


def require_equal(folder, one):
    got = Folder(folder / "model")
    for key, tensor in one.model.named_parameters():
        assert torch.equal(got.tensor(key) != 0, tensor != 0), key
        torch.testing.assert_close(got.tensor(key), tensor, rtol=0, atol=1e-9)
    losses = [float(x) for x in (folder / "curve.txt").read_text().split()]
    assert losses == pytest.approx([row["loss"] for row in one.notes["curve"]], rel=LAST_DIGIT)


def test_one_process_goes_on_where_two_stopped(half, tmp_path, make_exact):
    shutil.copytree(half, tmp_path / "work")
    resumed = train("cast", make_exact("gpt2"), tmp_path / "work")
    write(resumed.model, tmp_path / "model")
    losses = [str(row["loss"]) for row in resumed.notes["curve"]]
    (tmp_path / "curve.txt").write_text("\n".join(losses))
    require_equal(tmp_path, undisturbed("cast", "gpt2", tmp_path, make_exact))
    assert resumed.notes["training"]["processes"] == [2, 1]


@pytest.mark.full
def test_ranks_go_on_from_what_their_threads_wrote(tmp_path):
    """Threads write while the training goes on. What follows is equal to the last bit."""
    forked_ranks.launch(several_ranks, 2, tmp_path, STOPPED, f"kill={STOPPED}")
    straight, resumed = (tmp_path / kind / STOPPED for kind in ("", "kill"))
    before, after = Folder(straight / "model"), Folder(resumed / "model")
    assert {*before} == {*after}
    for name in before:
        assert torch.equal(before.tensor(name), after.tensor(name)), name
    assert (straight / "curve.txt").read_text() == (resumed / "curve.txt").read_text()


@pytest.mark.slow
def test_four_ranks_go_on_where_two_stopped(half, tmp_path, make_exact):
    shutil.copytree(half, tmp_path / "resume" / STOPPED / "work")
    forked_ranks.launch(several_ranks, 4, tmp_path, f"resume={STOPPED}")
    require_equal(tmp_path / "resume" / STOPPED, undisturbed("cast", "gpt2", tmp_path, make_exact))


@pytest.mark.slow
def test_no_rank_holds_a_whole_model(tmp_path):
    """Measure 28 million weights in 16 blocks, in float32, on four ranks."""
    sizes = {"vocab_size": 64, "hidden_size": 384, "intermediate_size": 1024}
    config = LlamaConfig(**sizes, num_hidden_layers=16, num_attention_heads=4)
    write(AutoModelForCausalLM.from_config(config), tmp_path / "model")
    whole = sum(p.stat().st_size for p in (tmp_path / "model").glob("*.safetensors"))
    config.num_hidden_layers = 1
    write(AutoModelForCausalLM.from_config(config), tmp_path / "small")
    forked_ranks.launch(
        several_ranks, 4, tmp_path, f"memory={tmp_path / 'small'}", f"memory={tmp_path / 'model'}"
    )

    taken = [
        [float(x) / whole for x in (tmp_path / f"memory-{r}.txt").read_text().split()]
        for r in range(4)
    ]
    assert max(start for start, _ in taken) < 0.7, taken
    assert max(end for _, end in taken[1:]) < 0.3, taken


@pytest.mark.full
def test_weights_that_are_turned_pages_are_split(make, tmp_path):
    """Those of GPT-2 are views of its file, and FSDP takes contiguous weights alone."""
    write(make("gpt2"), tmp_path / "model")
    forked_ranks.launch(several_ranks, 2, tmp_path, f"memory={tmp_path / 'model'}")
    assert all((tmp_path / f"memory-{rank}.txt").exists() for rank in range(2))


def test_a_checkpoint_belongs_to_the_training_whatever_the_number_of_processes(tmp_path, cache):
    folders = set()
    for more in ({}, {"processes": 2}, {"processes": 4, "nodes": 2}, {"seqlen": 64}):
        spec = runs.small(tmp_path / "r", methods=("cast",), training=TRAINING | more)
        made = [m.artifact for m in api.plan(spec).measurements if m.artifact.training]
        assert len({artifact.key for artifact in made}) == 1
        folders.add((made[0].training.seqlen, job.checkpoint_folder(made[0])))
    assert [seqlen for seqlen, _ in sorted(folders)] == [32, 64]
