"""The checkpoints of a training: whole, the last two, in files of bounded size."""

import torch
from safetensors.torch import load_file

from methods.workshop.training import training_checkpoint


def test_the_last_two_whole_checkpoints_are_kept(tmp_path):
    (tmp_path / "step-5").mkdir()
    (tmp_path / ".step-40").mkdir()
    assert training_checkpoint.latest(tmp_path) is None
    for step in (10, 20, 30):
        training_checkpoint.write(
            tmp_path, step, {"a": torch.full((3,), float(step))}, {"step": step}
        )

    found = training_checkpoint.latest(tmp_path)
    assert found.name == "step-30" and (tmp_path / "step-20").exists()
    assert not (tmp_path / "step-10").exists()
    held = {"a": torch.zeros(3)}
    training_checkpoint.read_into(found, held)
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
