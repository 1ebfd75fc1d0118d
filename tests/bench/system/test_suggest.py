"""Suggestions for an unknown name."""

import pytest

from bench.system.suggest import describe_unknown

METHODS = ("magnitude", "wanda", "admm", "dense", "finetune", "ria", "onnxruntime")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("wand", "did you mean wanda?"),
        ("wnada", "did you mean wanda?"),
        ("ira", "did you mean ria?"),
        ("onnx", "did you mean onnxruntime?"),
        ("nonsense", f"known: {', '.join(METHODS)}"),
        ("", f"known: {', '.join(METHODS)}"),
    ],
)
def test_only_what_is_near_is_suggested(typed, said):
    assert describe_unknown("method", typed, METHODS) == f"unknown method {typed!r}: {said}"
