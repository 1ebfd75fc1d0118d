"""llama.cpp on a CPU, through llama-cpp-python: the dense model as GGUF in F16 and Q8_0. It has no 2:4 kernel."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from bench.execution.engines.contract import Contestant, Step, require_device
from bench.execution.versions import DENSE, ModelVersions
from bench.export import gguf_file, llama_cpp
from bench.export.onnx_model import RANDOM_TOKENS
from bench.inputs import loading
from bench.kernels.timing import Work
from methods.contract import Compute
from methods.errors import UserError

CHECK_TOKENS = 16
TOLERANCES = {"fp16": 2e-2, "q8_0": 1e-1}
"""Largest difference of a logit from torch's in float32, as a share of the largest. A wrong file is off by all of it;
integers of 8 bits, of weights and of activations, cost some hundredths."""


class LlamaCpp:
    """The file needs no vocabulary: tokens are given by number."""

    name: ClassVar[str] = "llamacpp"
    kinds: ClassVar[dict[str, str]] = {"fp16": "none", "q8_0": "q8_0"}
    sparse: ClassVar[bool] = False

    def require(self, device: str) -> None:
        llama_cpp.require_package(f"--engine {self.name}")
        require_device(device, "cpu", self.name)

    def about(self) -> dict[str, Any]:
        import llama_cpp

        return {
            "llama-cpp-python": metadata.version("llama-cpp-python"),
            "build": llama_cpp.llama_print_system_info().decode(),
        }

    def contestants(self, versions: ModelVersions, step: Step, device: str, threads: int) -> list[Contestant]:
        folder = versions.folder(DENSE)
        files = {kind: versions.workdir / f"{kind}.gguf" for kind in self.kinds}
        for kind, file in files.items():
            if not file.exists():
                gguf_file.write(folder, file, kind.replace("fp", "f"))
                _check(folder, file, kind, threads)
        return [Contestant(kind, DENSE, _work(file, step, threads)) for kind, file in files.items()]


def _check(folder: Path, file: Path, kind: str, threads: int) -> None:
    """Raise UserError if the logits of a prompt are not the model's."""
    ids = np.random.default_rng(1).integers(RANDOM_TOKENS, size=CHECK_TOKENS)
    got = llama_cpp.logits(file, torch.from_numpy(ids), threads)
    with torch.inference_mode():
        expected = loading.load(folder, Compute())(torch.from_numpy(ids)[None]).logits[0]
    off = float((got - expected).abs().max() / expected.abs().max())
    if not off <= TOLERANCES[kind]:
        raise UserError(
            f"llama.cpp gives other logits for {folder} as GGUF {kind}, off by {off:.2g} of the largest: leave it out of --engine"
        )


def _work(file: Path, step: Step, threads: int) -> Work:
    ids = np.random.default_rng(0).integers(RANDOM_TOKENS, size=step.kv + step.prompt).tolist()
    llama = llama_cpp.load(file, len(ids), threads)
    llama.eval(ids[: step.kv]) if step.kv else None
    last = ids[step.kv :]

    def work() -> None:
        llama.n_tokens = step.kv  # `eval` drops the later cache entries
        llama.eval(last)

    return work
