"""Engines by the names that `bench speed --engine` takes."""

from __future__ import annotations

from bench.execution.engines.contract import Engine
from bench.execution.engines.llama_cpp import LlamaCpp
from bench.execution.engines.onnx_runtime import OnnxRuntime
from bench.execution.engines.ours import Native, Torch
from bench.execution.engines.tensor_rt import TensorRt

# A timing's key has the code of the engines that ran, which time_models adds.
DECIDES_NO_NUMBER = True

ENGINES: dict[str, type[Engine]] = {
    engine.name: engine for engine in (Native, Torch, OnnxRuntime, LlamaCpp, TensorRt)
}
