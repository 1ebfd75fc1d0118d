"""TensorRT, by a stand-in for the module: the order of the calls, and what is read of the inspector's answer."""

import enum
import json
import sys
import types

import numpy as np
import pytest
import torch

from bench.execution.engines import tensor_rt
from bench.execution.engines.contract import Step
from methods.errors import UserError

SHAPES = {
    "input_ids": (-1, -1), "attention_mask": (-1, -1), "position_ids": (-1, -1),
    "past_key_values.0.key": (-1, 2, -1, 4), "past_key_values.0.value": (-1, 2, -1, 4),
}  # fmt: skip
LAYERS = [
    {"Name": "mm1", "TacticName": "sm90_xmma_sparse_gemm_f16"}, {"Name": "mm2", "TacticName": "sm90_xmma_gemm_f16"},
    {"Name": "reshape"},
]  # fmt: skip


@pytest.fixture
def package(monkeypatch):
    """A module that logs what is called. readable: what the parser answers; buildable: whether a plan comes out."""
    trt = types.ModuleType("tensorrt")
    trt.__version__, trt.log, trt.readable, trt.buildable = "11.0", [], True, True
    log = trt.log.append
    kind = types.SimpleNamespace
    trt.DataType = enum.Enum("DataType", ["HALF", "FLOAT", "INT64"])
    trt.TensorIOMode = enum.Enum("TensorIOMode", ["INPUT", "OUTPUT"])
    trt.NetworkDefinitionCreationFlag = kind(STRONGLY_TYPED=1)
    trt.BuilderFlag, trt.ProfilingVerbosity = kind(SPARSE_WEIGHTS="sparse weights"), kind(DETAILED="detailed")
    trt.LayerInformationFormat = kind(JSON="json")

    class Logger:
        WARNING = 1

        def __init__(self, level):
            pass

    class Builder:
        def __init__(self, logger):
            log("builder")

        def create_network(self, flags):
            assert flags == 2
            inputs = [kind(name=name, shape=shape) for name, shape in SHAPES.items()]
            return kind(num_inputs=len(inputs), get_input=inputs.__getitem__)

        def create_builder_config(self):
            return kind(set_flag=log, add_optimization_profile=lambda profile: log("profile"))

        def create_optimization_profile(self):
            return kind(set_shape=lambda name, low, best, high: log((name, low)) if low == best == high else None)

        def build_serialized_network(self, network, config):
            assert config.profiling_verbosity == "detailed"
            log("build")
            return b"plan" if trt.buildable else None

    class Parser:
        def __init__(self, network, logger):
            pass

        def parse_from_file(self, file):
            log(file)
            return trt.readable

        def get_error(self, i):
            return kind(desc=lambda: "no such operator")

    class Context:
        def __init__(self):
            self.shapes, self.places = {}, {}

        def set_input_shape(self, name, shape):
            self.shapes[name] = shape

        def get_tensor_shape(self, name):
            assert len(self.shapes) == len(SHAPES)
            return (*self.shapes["input_ids"], 64)

        def set_tensor_address(self, name, place):
            self.places[name] = place

        def execute_async_v3(self, stream):
            assert set(self.places) == {*SHAPES, "logits"} and stream == 7
            log("execute")

    class CudaEngine:
        num_io_tensors = len(SHAPES) + 1
        create_execution_context = staticmethod(Context)
        get_tensor_name = staticmethod([*SHAPES, "logits"].__getitem__)

        def get_tensor_mode(self, name):
            return trt.TensorIOMode.INPUT if name in SHAPES else trt.TensorIOMode.OUTPUT

        def get_tensor_shape(self, name):
            return SHAPES[name]

        def get_tensor_dtype(self, name):
            return trt.DataType.HALF

        def create_engine_inspector(self):
            return kind(get_engine_information=lambda form: json.dumps({"Layers": LAYERS}))

    trt.Logger, trt.Builder, trt.OnnxParser = Logger, Builder, Parser
    trt.Runtime = lambda logger: kind(deserialize_cuda_engine=lambda plan: CudaEngine())
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: kind(cuda_stream=7))
    return trt


class Versions:
    def onnx(self, side, dtype):
        return f"{side} {dtype}"


def test_both_sides_are_one_file_built_with_and_without_sparse_kernels(package):
    sparse, dense = tensor_rt.TensorRt().contestants(Versions(), Step("decode", 1, 8), "cpu", 1)

    built = [name for name in package.log if isinstance(name, str)]
    assert built == [
        "builder",
        "2:4 float16",
        "sparse weights",
        "profile",
        "build",
        "builder",
        "2:4 float16",
        "profile",
        "build",
    ]
    assert (sparse.side, dense.side) == ("2:4", "dense")
    assert sparse.notes == {"layers": 3, "sparse_layers": ["mm1"]}
    shapes = dict(entry for entry in package.log if isinstance(entry, tuple))
    assert shapes["input_ids"] == (1, 1) and shapes["attention_mask"] == (1, 9)
    assert shapes["past_key_values.0.key"] == (1, 2, 8, 4)
    memory = sparse.work()
    assert package.log[-1] == "execute"
    assert memory["past_key_values.0.key"].dtype == torch.float16 and memory["logits"].shape == (1, 1, 64)
    assert memory["input_ids"].dtype == torch.int64 and np.prod(memory["input_ids"].shape) == 1


def test_what_tensorrt_refuses_is_a_sentence(package):
    package.readable = False
    with pytest.raises(UserError, match=r"TensorRT 11\.0 cannot read .*: no such operator"):
        tensor_rt.build("x.onnx", Step("decode", 1, 8), sparse=True)
    package.readable, package.buildable = True, False
    with pytest.raises(UserError, match=r"TensorRT 11\.0 cannot build"):
        tensor_rt.build("x.onnx", Step("decode", 1, 8), sparse=True)


def test_it_measures_on_a_card_only(package, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    with pytest.raises(UserError, match="--engine tensorrt measures on a CUDA device: use --device cuda"):
        tensor_rt.TensorRt().require("cpu")
    assert tensor_rt.TensorRt().about() == {"tensorrt": "11.0"}
