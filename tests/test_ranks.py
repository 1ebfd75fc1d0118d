"""Two processes train what one does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import support
import torch
from conftest import build, job_for
from test_training import counting, job_to_train, method

from bench import crew
from bench.store import Store
from methods.folder import Folder

HERE = Path(__file__).parent


PAIRS = [
    ("cast", "llama"),
    ("cast", "gpt2"),
    ("retrain", "gpt2"),
    ("sr-ste", "llama"),
    ("maskllm", "gpt2"),
    ("proxsparse", "gpt2"),
]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two processes made of each pair, in a folder named after it: their start costs more than all trainings."""
    out = tmp_path_factory.mktemp("two")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        str(HERE / "two_ranks.py"), str(out), *(f"{name},{family}" for name, family in PAIRS),
    ]  # fmt: skip
    paths = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.mark.parametrize(("name", "family"), PAIRS)
def test_two_ranks_equal_one_process(name, family, two, tmp_path):
    model = build(family)
    job = job_to_train(model, job_for, counting(), tmp_path / "one", steps=12)
    one = method(name).apply(model, job)

    told = two / f"{name},{family}"
    two = Folder(told / "model")
    for key, tensor in one.model.named_parameters():
        got = two.tensor(key)
        if key.endswith("c_attn.bias"):  # a key's bias shifts all scores alike, so its gradient is rounding alone,
            queries_and_values = torch.arange(len(got)) // (len(got) // 3) != 1  # which Adam makes whole steps of
            got, tensor = got[queries_and_values], tensor[queries_and_values]
        if key.removesuffix(".weight") in job.targets:  # a near-tie may be settled the other way
            same = (got != 0) == (tensor != 0)
            assert same.float().mean() > 0.99, key
            torch.testing.assert_close(got[same], tensor[same], rtol=1e-3, atol=1e-4)
        else:
            torch.testing.assert_close(got, tensor, rtol=1e-3, atol=1e-4)
    losses = [float(x) for x in (told / "curve.txt").read_text().split()]
    assert losses == pytest.approx([row["loss"] for row in one.notes["curve"]], rel=1e-4)


def test_sums_of_one_process_are_its_own():
    from methods import ranks

    assert ranks.total(1.0, 2.0) == [1.0, 2.0]
    assert ranks.rank_and_world() == (0, 1)
    assert torch.equal(ranks.mean(torch.ones(2)), torch.ones(2))


def test_a_run_of_two_processes_is_a_run_of_one(tmp_path, monkeypatch):
    """From the plan to the record; by another key, since rounding differs."""
    support.own_cache(tmp_path, monkeypatch)
    training = {"tokens": 4096, "batch": 8, "seqlen": 32}
    for processes in (1, 2):
        spec = support.small(
            tmp_path / "r", methods=("cast",), measures=("perplexity",), training=training | {"processes": processes}
        )
        support.run_here(spec, only=("cast",))

    found = [r for r in Store(tmp_path / "r", write=False) if r.slot["measure"] == "perplexity"]
    assert [r.status for r in found] == ["ok", "ok"], [r.reason for r in found]
    one, two = (r.readings[0].value for r in found)
    assert found[0].key != found[1].key
    assert one == pytest.approx(two, rel=1e-3)


def test_a_helper_that_dies_is_a_failed_row(tmp_path, monkeypatch):
    support.own_cache(tmp_path, monkeypatch)
    monkeypatch.setattr(crew, "HELPER", "import sys; sys.exit(3)")
    training = {"tokens": 4096, "batch": 8, "seqlen": 32, "processes": 2}
    spec = support.small(tmp_path / "r", methods=("cast",), measures=("perplexity",), training=training)
    support.run_here(spec, only=("cast",))

    (record,) = [r for r in Store(tmp_path / "r", write=False) if r.slot["measure"] == "perplexity"]
    assert record.status == "failed"
    assert "rank 1 ended with code 3 before it began" in record.reason
