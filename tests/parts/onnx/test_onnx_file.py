"""Weights found in an ONNX file, whichever way a product has them; files made by hand."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from bench.parts.onnx.onnx_file import OnnxFile
from methods.contract.errors import UserError
from methods.contract.pattern import Pattern

PATTERN = Pattern.parse("2:4")
WEIGHT = (
    np.tile(np.array([1, 0, 2, 0], np.float32), (3, 2))
    + np.arange(3, dtype=np.float32)[:, None] * 0
)
"""[3, 8], 2:4 along its rows and dense along its columns."""
X = helper.make_tensor_value_info("x", TensorProto.FLOAT, [5, 8])
Y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [5, 4])

WAYS = {
    "right, [in, out]": (WEIGHT.T, [helper.make_node("MatMul", ["x", "w"], ["h"])]),
    "Gemm, [in, out]": (WEIGHT.T, [helper.make_node("Gemm", ["x", "w"], ["h"])]),
    "Gemm, [out, in]": (WEIGHT, [helper.make_node("Gemm", ["x", "w"], ["h"], transB=1)]),
    "turned": (
        WEIGHT,
        [helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]),
         helper.make_node("MatMul", ["x", "t"], ["h"])],
    ),
    "left, [out, in]": (
        WEIGHT,
        [helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0]),
         helper.make_node("MatMul", ["w", "t"], ["h"])],
    ),
    "left in Gemm, [in, out]": (
        WEIGHT.T,
        [helper.make_node("Gemm", ["w", "x"], ["h"], transA=1, transB=1)],
    ),
}  # fmt: skip


def save(path, nodes, weights, *, external=False, result="h"):
    """A graph that ends in a ReLU and a head, so that no other product is the last."""
    tail = [
        helper.make_node("Relu", [result], ["r"]),
        helper.make_node("MatMul", ["r", "head"], ["m"]),
    ]
    tail += [helper.make_node("Tanh", ["m"], ["y"])]
    tensors = [
        numpy_helper.from_array(np.ascontiguousarray(w), name) for name, w in weights.items()
    ]
    tensors.append(numpy_helper.from_array(np.ones((3, 4), np.float32), "head"))
    graph = helper.make_graph([*nodes, *tail], "made", [X], [Y], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path, save_as_external_data=external, location="weights", size_threshold=0)
    return path


@pytest.mark.parametrize("way", WAYS)
def test_groups_go_along_the_input_whatever_the_layout(tmp_path, way):
    stored, nodes = WAYS[way]
    file = OnnxFile(save(tmp_path / "x.onnx", nodes, {"w": stored}))
    counts = file.count(PATTERN)

    assert torch.equal(file.weight(file.targets()[0]), torch.from_numpy(WEIGHT))
    assert (counts.violations, counts.layers["w"].zeros) == (0, 12)
    broken = stored.copy()
    broken[stored == 0] = [7.0] + [0.0] * 11
    assert OnnxFile(save(tmp_path / "y.onnx", nodes, {"w": broken})).count(PATTERN).violations == 1


def test_other_operators_of_the_same_names_are_not_read(tmp_path):
    """A Transpose may leave the order. Operators outside the standard may compute anything, from no
    inputs."""
    same = [
        helper.make_node("Transpose", ["w"], ["t"], perm=[0, 1]),
        helper.make_node("MatMul", ["x", "t"], ["h"]),
    ]
    file = OnnxFile(save(tmp_path / "x.onnx", same, {"w": WEIGHT.T}))
    assert file.count(PATTERN).violations == 0
    strange = [
        helper.make_node(kind, [], [f"o{kind}"], domain="a.b") for kind in ("MatMul", "Transpose")
    ]
    path = save(tmp_path / "y.onnx", [*strange, *WAYS["right, [in, out]"][1]], {"w": WEIGHT.T})
    model = onnx.load(path)
    model.opset_import.append(helper.make_opsetid("a.b", 1))
    onnx.save(model, path)
    assert len(OnnxFile(path).targets()) == 1


def test_a_violated_group_is_found_by_the_command(cli, tmp_path):
    nodes = WAYS["right, [in, out]"][1]
    broken = WEIGHT.T.copy()
    broken[1, 2] = 5
    good, bad = (
        save(tmp_path / f"{n}.onnx", nodes, {"w": w})
        for n, w in (("good", WEIGHT.T), ("bad", broken))
    )

    assert cli("verify", str(good))[0] == 0
    code, out, err = cli("verify", str(bad))
    assert (code, err) == (1, f"bench: check failed: 2:4 does not hold in 1 group of {bad}\n")
    assert out.splitlines()[-1].split()[-1] == "1"


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats(tmp_path, dtype):
    file = OnnxFile(
        save(tmp_path / "x.onnx", WAYS["right, [in, out]"][1], {"w": WEIGHT.T.astype(dtype)})
    )

    assert torch.equal(file.weight(file.targets()[0]).float(), torch.from_numpy(WEIGHT))


def test_the_head_is_no_target_and_names_can_be_chosen(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["p"]),
        helper.make_node("MatMul", ["x", "b"], ["q"]),
    ]
    nodes.append(helper.make_node("Add", ["p", "q"], ["h"]))
    file = OnnxFile(save(tmp_path / "x.onnx", nodes, {"a": WEIGHT.T, "b": WEIGHT.T}))

    assert [linear.name for linear in file.targets()] == ["a", "b"]
    assert [linear.name for linear in file.targets(exclude=["b*"])] == ["a"]
    assert [linear.name for linear in file.linears if linear.is_head] == ["head"]
    with pytest.raises(
        UserError,
        match=r"no linear of .*x.onnx matches include \['c'\] and exclude \[\]; names look",
    ):
        file.targets(["c"])
    with pytest.raises(
        UserError, match=r"pattern 3:7 needs input widths that are multiples of 7, and a has 8"
    ):
        file.count(Pattern.parse("3:7"))


def test_a_file_that_is_none_is_a_sentence(refused, tmp_path):
    content = save(
        tmp_path / "x.onnx", WAYS["turned"][1], {"w": WEIGHT}, external=True
    ).read_bytes()
    (tmp_path / "text.onnx").write_text("no model")
    (tmp_path / "cut.onnx").write_bytes(content[:-20])
    (tmp_path / "link.onnx").symlink_to("/etc/passwd")
    outside = content.replace(b"weights", b"../pass")
    for name, graph in (("lost", content), ("out", outside), ("short", content)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.onnx").write_bytes(graph)
    (tmp_path / "short/weights").write_bytes(b"1234")

    for name in ("none", "text", "cut", "link", "lost/x", "out/x", "short/x"):
        assert "Traceback" not in refused("verify", str(tmp_path / f"{name}.onnx"))
