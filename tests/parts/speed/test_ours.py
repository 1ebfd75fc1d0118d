"""Our own engines: which weights each side of the native one multiplies."""

import pytest
import torch

from bench.inputs import loading
from bench.parts.speed.engines import ours
from bench.parts.speed.engines.contract import Step
from helpers.runs import prune, tiny
from methods.contract.method import Compute
from methods.model.folder import Folder
from methods.model.targets import find_targets


class Versions:
    targets = ("a", "b")

    def __init__(self, is_sparse, *sides):
        self.is_sparse, self.sides = is_sparse, sides or ("2:4", "dense")

    def folder(self, side):
        return f"folder of {side}"


@pytest.mark.parametrize("is_sparse", [False, True])
def test_the_native_dense_side_is_the_dense_model_or_the_twin_of_a_sparse_one(
    monkeypatch, is_sparse
):
    monkeypatch.setattr(
        ours,
        "_on_kernel",
        lambda folder, targets, kind, dense=False: (folder, targets, kind, dense),
    )
    monkeypatch.setattr(ours, "use_dense_twins", lambda model: ("twin", model))
    monkeypatch.setattr(ours, "_contestant", lambda *parts: parts)
    step = Step("decode", 1, 8)
    made = ours.Native().contestants(Versions(is_sparse), step, "cpu", 1)

    for kind, sparse, dense in (("bf16", *made[:2]), ("int8", *made[2:4]), ("int4", *made[4:])):
        model = ("folder of 2:4", ("a", "b"), kind, False)
        assert sparse == (kind, "2:4", model, step)
        wanted = ("twin", model) if is_sparse else ("folder of dense", ("a", "b"), kind, True)
        assert dense == (kind, "dense", wanted, step)


def test_another_model_of_a_turn_is_dense_and_kept_apart(monkeypatch):
    monkeypatch.setattr(
        ours, "_on_kernel", lambda folder, targets, kind, dense=False: (folder, dense)
    )
    monkeypatch.setattr(ours, "_contestant", lambda *parts: parts)
    native, step = ours.Native(), Step("decode", 1, 8)
    native.contestants(Versions(False), step, "cpu", 1)
    made = native.contestants(Versions(False, "dense"), step, "cpu", 1)

    assert made == [
        (kind, "dense", ("folder of dense", True), step) for kind in ("bf16", "int8", "int4")
    ]


@pytest.mark.usefixtures("kernel")
def test_a_width_without_int4_is_int8_and_counted_and_the_head_is_on_the_kernel(tmp_path):
    folder = prune(tiny(tmp_path / "tiny"))
    source = Folder(folder)
    targets = find_targets(source.config, source.shapes())
    model = ours._on_kernel(folder, targets, "int4")
    made = ours._contestant("int4", "2:4", model, Step("prefill", 4, 0))
    blocks = source.config["num_hidden_layers"]
    # The products of 352 inputs, and the head.
    assert made.notes == {"bits": {"8": blocks + 1, "4": 6 * blocks}}
    plain = ours._on_kernel(folder, targets, "bf16")
    assert [m.get_output_embeddings().kernel_weight.bits for m in (plain, model)] == [16, 8]
    tokens = torch.arange(8)[None]
    wanted = loading.load(folder, Compute(dtype=torch.bfloat16))(tokens).logits.float()
    assert (plain(tokens).logits.float() - wanted).norm() < 0.02 * wanted.norm()
