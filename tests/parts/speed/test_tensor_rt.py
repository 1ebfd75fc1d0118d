"""TensorRT, by a stand-in for the module: the order of the calls, and what is read of the
inspector's answer."""

import json
import sys
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch

from bench.parts.speed.engines import tensor_rt
from bench.parts.speed.engines.contract import Step
from methods.contract.errors import UserError

SHAPES = {
    "input_ids": (-1, -1), "attention_mask": (-1, -1), "position_ids": (-1, -1),
    "past_key_values.0.key": (-1, 2, -1, 4), "past_key_values.0.value": (-1, 2, -1, 4),
}  # fmt: skip
NAMES = [*SHAPES, "logits"]
LAYERS = [
    {"Name": "mm1", "TacticName": "sm90_xmma_sparse_gemm_f16"},
    {"Name": "mm2", "TacticName": "sm90_xmma_gemm_f16"}, {"Name": "reshape"},
]  # fmt: skip


@pytest.fixture
def package(monkeypatch):
    trt = MagicMock(__version__="11.0")
    trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED = 1
    network = trt.Builder().create_network()
    network.num_inputs = len(SHAPES)
    network.get_input = [
        SimpleNamespace(name=name, shape=shape) for name, shape in SHAPES.items()
    ].__getitem__
    engine = trt.Runtime().deserialize_cuda_engine()
    engine.num_io_tensors, engine.get_tensor_name, engine.get_tensor_shape = (
        len(NAMES),
        NAMES.__getitem__,
        SHAPES.get,
    )
    engine.get_tensor_mode = lambda name: (
        trt.TensorIOMode.INPUT if name in SHAPES else trt.TensorIOMode.OUTPUT
    )
    engine.get_tensor_dtype.return_value = trt.DataType.HALF
    engine.create_engine_inspector().get_engine_information.return_value = json.dumps(
        {"Layers": LAYERS}
    )
    engine.create_execution_context().get_tensor_shape.return_value = (1, 1, 64)
    trt.reset_mock()
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=7))
    return trt


class Versions:
    sides = ("2:4", "dense")

    def onnx(self, side, dtype):
        return f"{side} {dtype}"


def test_both_sides_are_one_file_built_with_and_without_sparse_kernels(package):
    sparse, dense = tensor_rt.TensorRt().contestants(Versions(), Step("decode", 1, 8), "cpu", 1)

    steps = ("parse_from_file", "set_flag", "add_optimization_profile", "build_serialized_network")
    calls = [(name, args) for name, args, _ in package.mock_calls if name.endswith(steps)]
    called = [(name.rpartition(".")[2], *args[:1]) for name, args in calls]
    assert called[:2] == [
        ("parse_from_file", "2:4 float16"),
        ("set_flag", package.BuilderFlag.SPARSE_WEIGHTS),
    ]
    assert called[4] == called[0]
    assert [name for name, _ in called[2:]] == [*steps[2:], steps[0], *steps[2:]]
    builder = package.Builder()
    assert builder.create_network.call_args.args == (2,)
    found = builder.create_builder_config().profiling_verbosity
    assert found == package.ProfilingVerbosity.DETAILED
    assert (sparse.side, dense.side) == ("2:4", "dense")
    assert sparse.notes == {"layers": 3, "sparse_layers": ["mm1"]}
    set_shapes = builder.create_optimization_profile().set_shape.call_args_list
    shapes = {call.args[0]: call.args[1:] for call in set_shapes}
    assert shapes["input_ids"] == ((1, 1),) * 3 and shapes["attention_mask"] == ((1, 9),) * 3
    assert shapes["past_key_values.0.key"] == ((1, 2, 8, 4),) * 3
    memory = sparse.work()
    context = package.Runtime().deserialize_cuda_engine().create_execution_context()
    context.execute_async_v3.assert_called_once_with(7)
    assert {call.args[0] for call in context.set_input_shape.call_args_list} == set(SHAPES)
    assert {call.args[0] for call in context.set_tensor_address.call_args_list} == set(NAMES)
    assert memory["past_key_values.0.key"].dtype == torch.float16
    assert memory["logits"].shape == (1, 1, 64)
    assert memory["input_ids"].dtype == torch.int64 and memory["input_ids"].numel() == 1


def test_what_tensorrt_refuses_is_a_sentence(package):
    package.Builder().build_serialized_network.return_value = None
    with pytest.raises(UserError, match=r"TensorRT 11\.0 cannot build"):
        tensor_rt.build("x.onnx", Step("decode", 1, 8), sparse=True)
    package.OnnxParser().parse_from_file.return_value = False
    package.OnnxParser().get_error().desc.return_value = "no such operator"
    with pytest.raises(UserError, match=r"TensorRT 11\.0 cannot read .*: no such operator"):
        tensor_rt.build("x.onnx", Step("decode", 1, 8), sparse=True)


def test_it_measures_on_a_card_only(package, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    with pytest.raises(
        UserError, match="--engine tensorrt measures on a CUDA device: use --device cuda"
    ):
        tensor_rt.TensorRt().require("cpu")
    assert tensor_rt.TensorRt().about() == {"tensorrt": "11.0"}
