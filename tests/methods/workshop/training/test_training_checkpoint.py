"""The checkpoints of a training: whole, the last two, in files of bounded size."""

import torch
from safetensors.torch import load_file

from methods.workshop.training import training_checkpoint


def test_half_written_checkpoint_is_not_seen(tmp_path):
    (tmp_path / "step-10").mkdir()
    assert training_checkpoint.latest(tmp_path) is None
    training_checkpoint.write(tmp_path, 20, {"a": torch.ones(3)}, {"step": 20})
    (tmp_path / ".step-30").mkdir()

    assert training_checkpoint.latest(tmp_path).name == "step-20"


def test_old_checkpoints_go(tmp_path):
    for step in (10, 20, 30):
        training_checkpoint.write(
            tmp_path, step, {"a": torch.full((3,), float(step))}, {"step": step}
        )

    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-20", "step-30"]
    held = {"a": torch.zeros(3)}
    training_checkpoint.read_into(training_checkpoint.latest(tmp_path), held)
    assert torch.equal(held["a"], torch.full((3,), 30.0))


def test_a_checkpoint_is_split_into_files(tmp_path, monkeypatch):
    """Three tensors of 12 bytes begin at 0, 12 and 24."""
    monkeypatch.setattr(training_checkpoint, "FILE_BYTES", 16)
    tensors = {name: torch.full((3,), float(i)) for i, name in enumerate("abc")}

    folder = training_checkpoint.write(tmp_path, 1, tensors, {})

    assert sorted(len(load_file(p)) for p in folder.glob("*.safetensors")) == [1, 2]
    held = {name: torch.zeros(3) for name in tensors}
    training_checkpoint.read_into(folder, held)
    assert all(torch.equal(held[name], value) for name, value in tensors.items())
