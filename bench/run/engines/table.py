"""The engines that `bench speed --engine` takes, by name."""

from __future__ import annotations

from bench.run.engines.contract import Engine
from bench.run.engines.llama_cpp import LlamaCpp
from bench.run.engines.onnx_runtime import OnnxRuntime
from bench.run.engines.ours import Native, Torch
from bench.run.engines.tensor_rt import TensorRt

ENGINES: dict[str, type[Engine]] = {engine.name: engine for engine in (Native, Torch, OnnxRuntime, LlamaCpp, TensorRt)}
