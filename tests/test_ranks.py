"""Two processes train what one does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import build, job_for
from test_training import counting, job_to_train, method

from methods.folder import Folder

HERE = Path(__file__).parent


def torchrun(name, family, out):
    out.mkdir()
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        str(HERE / "two_ranks.py"), name, family, str(out),
    ]  # fmt: skip
    paths = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    ("name", "family"), [("cast", "llama"), ("cast", "gpt2"), ("retrain", "gpt2"), ("sr-ste", "llama")]
)
def test_two_ranks_equal_one_process(name, family, tmp_path):
    torchrun(name, family, tmp_path / "two")

    model = build(family)
    job = job_to_train(model, job_for, counting(), tmp_path / "one", steps=12)
    one = method(name).apply(model, job)

    two = Folder(tmp_path / "two/model")
    for key, tensor in one.model.named_parameters():
        got = two.tensor(key)
        if key.removesuffix(".weight") in job.targets:  # a near-tie may be settled the other way
            same = (got != 0) == (tensor != 0)
            assert same.float().mean() > 0.99, key
            torch.testing.assert_close(got[same], tensor[same], rtol=1e-3, atol=1e-4)
        else:
            torch.testing.assert_close(got, tensor, rtol=1e-3, atol=1e-4)
    losses = [float(x) for x in (tmp_path / "two/curve.txt").read_text().split()]
    assert losses == pytest.approx([row["loss"] for row in one.notes["curve"]], rel=1e-4)


def test_sums_of_one_process_are_its_own():
    from methods import ranks

    assert ranks.total(1.0, 2.0) == [1.0, 2.0]
    assert ranks.rank_and_world() == (0, 1)
    assert torch.equal(ranks.mean(torch.ones(2)), torch.ones(2))
