"""ONNX Runtime on a CPU: the same exported graph with dense weights and with 2:4 zeros, which it
multiplies like others."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bench.formats.loaded import RANDOM_TOKENS
from bench.parts.packed24.timing import Work
from bench.parts.speed.engines.contract import Contestant, Engine, Step, require_device
from bench.parts.speed.versions import ModelVersions
from bench.system.packages import pip_install, require

DTYPE = "float32"
"""onnxruntime has no float16 products on an x86 CPU: it casts each weight."""


class OnnxRuntime(Engine):
    """ONNX Runtime on a CPU: the exported graph, dense and 2:4.

    Each step asks for logits and for the whole new cache, as a decoding loop does. The graph
    computes the logits of every token of a prompt. Other engines compute those of the last one
    only.
    """

    kinds: ClassVar[dict[str, str]] = {"fp32": "none"}
    sparse: ClassVar[bool] = True

    def require(self, device: str) -> None:
        require("onnx", "onnxscript", "onnxruntime", what="ONNX", how=pip_install("onnx"))
        require_device(device, "cpu", "onnxruntime")

    def about(self) -> dict[str, Any]:
        import onnxruntime

        return {
            "onnxruntime": metadata.version("onnxruntime"),
            "build": onnxruntime.get_build_info(),
            "provider": "CPUExecutionProvider",
        }

    def contestants(
        self, versions: ModelVersions, step: Step, device: str, threads: int
    ) -> list[Contestant]:
        files = {side: versions.onnx(side, DTYPE) for side in versions.sides}
        return [
            Contestant("fp32", side, _work(file, step, threads)) for side, file in files.items()
        ]


def _work(file: Path, step: Step, threads: int) -> Work:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Its threads would slow what comes next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    values = inputs({given.name: given.shape for given in session.get_inputs()}, step)
    feed = {name: onnxruntime.OrtValue.ortvalue_from_numpy(value) for name, value in values.items()}
    outputs = [output.name for output in session.get_outputs()]
    return lambda: session.run_with_ort_values(outputs, feed)


def inputs(
    shapes: dict[str, list[Any]], step: Step, floats: Any = np.float32
) -> dict[str, np.ndarray[Any, Any]]:
    """Inputs of an exported graph for one step: random tokens after a random cache. shapes: of the
    graph's inputs."""
    rng = np.random.default_rng(0)
    out = {
        "input_ids": rng.integers(RANDOM_TOKENS, size=(1, step.prompt)),
        "attention_mask": np.ones((1, step.kv + step.prompt), np.int64),
        "position_ids": np.arange(step.kv, step.kv + step.prompt)[None],
    }
    for name, shape in shapes.items():
        if name.startswith("past_key_values."):
            out[name] = rng.normal(size=(1, shape[1], step.kv, shape[3])).astype(floats)
    return out
