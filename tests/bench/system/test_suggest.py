"""Suggestions for an unknown name."""

from bench.catalog.entries import QUANTIZERS
from bench.system.suggest import describe_unknown

METHODS = ("magnitude", "wanda", "admm", "dense", "finetune", "ria", "onnxruntime")


def test_only_what_is_near_is_suggested():
    near = {"wand": "wanda", "wnada": "wanda", "ira": "ria", "onnx": "onnxruntime"}
    said = {typed: f"did you mean {name}?" for typed, name in near.items()}
    said |= dict.fromkeys(("nonsense", ""), f"known: {', '.join(METHODS)}")
    for typed, rest in said.items():
        assert describe_unknown("method", typed, METHODS) == f"unknown method {typed!r}: {rest}"


def test_names_that_complete_the_typed_one_come_first_in_their_order():
    assert describe_unknown("quantizer", "int4", QUANTIZERS).endswith(
        "did you mean int4-gptq or int4-awq or int4-rtn?"
    )
