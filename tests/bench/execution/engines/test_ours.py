"""Our own engines: which weights each side of the native one multiplies."""

from bench.execution.engines import ours
from bench.execution.engines.contract import Step


class Versions:
    targets = ("a", "b")

    def folder(self, side):
        return f"folder of {side}"


def test_the_native_dense_side_is_the_twin_of_the_sparse_one(monkeypatch):
    monkeypatch.setattr(ours, "_on_kernel", lambda folder, targets, kind: (folder, targets, kind))
    monkeypatch.setattr(ours, "dense_twin", lambda model: ("twin", model))
    monkeypatch.setattr(ours, "_contestant", lambda *parts: parts)
    step = Step("decode", 1, 8)
    made = ours.Native().contestants(Versions(), step, "cpu", 1)

    for kind, sparse, dense in (("bf16", *made[:2]), ("int8", *made[2:])):
        model = ("folder of 2:4", ("a", "b"), kind)
        assert sparse == (kind, "2:4", model, step)
        assert dense == (kind, "dense", ("twin", model), step)
