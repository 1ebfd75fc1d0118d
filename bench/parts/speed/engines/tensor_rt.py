"""TensorRT on a card: the float16 ONNX file built with and without sparse kernels. NOT RUN HERE: no
card was at hand."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from bench.parts.packed24.timing import Work
from bench.parts.speed.engines.contract import Contestant, Engine, Step, require_device
from bench.parts.speed.engines.onnx_runtime import inputs
from bench.parts.speed.versions import SPARSE, ModelVersions
from bench.system.packages import require
from methods.contract.errors import UserError

DTYPE = "float16"


class TensorRt(Engine):
    """TensorRT on a CUDA device, with and without sparse kernels.

    Both sides are the 2:4 file: dense is built without SPARSE_WEIGHTS, so that only the kernels
    differ.
    """

    kinds: ClassVar[dict[str, str]] = {"fp16": "none"}
    sparse: ClassVar[bool] = True

    def require(self, device: str) -> None:
        require("tensorrt", what="--engine tensorrt", how="pip install tensorrt")
        require_device(device, "cuda", "tensorrt")

    def about(self) -> dict[str, Any]:
        import tensorrt

        return {"tensorrt": tensorrt.__version__}

    def contestants(
        self, versions: ModelVersions, step: Step, device: str, threads: int
    ) -> list[Contestant]:
        file, out = versions.onnx(versions.sides[0], DTYPE), []
        for side in versions.sides:
            engine, layers = build(file, step, sparse=side == SPARSE)
            notes = {"layers": len(layers), "sparse_layers": list(sparse_layers(layers))}
            out.append(Contestant("fp16", side, _work(engine, step, torch.device(device)), notes))
        return out


def build(file: Path, step: Step, *, sparse: bool) -> tuple[Any, list[dict[str, Any]]]:
    """Build an engine for exactly this step, or raise UserError. Return it with its inspector's
    entry for each layer."""
    import tensorrt as trt

    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    # Types are those of the file.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(file)):
        raise UserError(
            f"TensorRT {trt.__version__} cannot read {file}: {parser.get_error(0).desc()}"
        )
    config = builder.create_builder_config()
    # Else the inspector names no kernel.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if sparse:
        config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    profile = builder.create_optimization_profile()
    tensors = [network.get_input(i) for i in range(network.num_inputs)]
    for name, value in inputs({t.name: list(t.shape) for t in tensors}, step).items():
        profile.set_shape(name, value.shape, value.shape, value.shape)
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise UserError(f"TensorRT {trt.__version__} cannot build {file}: its log says why")
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return engine, json.loads(text)["Layers"]


def sparse_layers(layers: Iterable[dict[str, Any]]) -> Iterable[str]:
    """Return the names of the layers with a sparse kernel."""
    return (
        layer["Name"] for layer in layers if "sparse" in str(layer.get("TacticName", "")).lower()
    )


def _work(engine: Any, step: Step, device: torch.device) -> Work:
    import tensorrt as trt

    dtypes = {
        trt.DataType.HALF: torch.float16, trt.DataType.FLOAT: torch.float32,
        trt.DataType.INT64: torch.int64,
    }  # fmt: skip
    context = engine.create_execution_context()
    if context is None:
        raise torch.OutOfMemoryError("TensorRT has no room for the model's activations")
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    given = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    values = inputs({name: list(engine.get_tensor_shape(name)) for name in given}, step, np.float16)
    memory = {name: torch.from_numpy(values[name]).to(device) for name in given}
    for name, tensor in memory.items():
        context.set_input_shape(name, tuple(tensor.shape))
    for name in names:
        if name not in memory:
            kind = dtypes[engine.get_tensor_dtype(name)]
            memory[name] = torch.empty(
                tuple(context.get_tensor_shape(name)), dtype=kind, device=device
            )
    for name, tensor in memory.items():
        context.set_tensor_address(name, tensor.data_ptr())

    def work() -> dict[str, torch.Tensor]:
        context.execute_async_v3(torch.cuda.current_stream(device).cuda_stream)
        return memory  # kept as long as the work may be called

    return work
