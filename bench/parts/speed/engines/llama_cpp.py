"""llama.cpp on a CPU, through llama-cpp-python: the dense model as GGUF in four types. It has no
2:4 kernel."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from bench.catalog import registry
from bench.formats.loaded import RANDOM_TOKENS
from bench.inputs import llamacpp, loading
from bench.parts.packed24.timing import Work
from bench.parts.speed.engines.contract import Contestant, Engine, Step, require_device
from bench.parts.speed.versions import DENSE, ModelVersions
from bench.verify import function_error
from methods.contract.errors import UserError
from methods.contract.method import Compute

CHECK_TOKENS = 16
TOLERANCES = {"fp16": 2e-2, "q8_0": 1e-1, "q4_k_m": 0.5, "q4_0": 0.5}
"""Largest relative change of the logits. A file with other weights is off by about 1. Integers of 8
bits cost some hundredths and those of 4 bits some tenths, because llama.cpp rounds activations,
too: those of the first tokens of Qwen2.5 have a few that are far larger than the rest."""


class LlamaCpp(Engine):
    """llama.cpp on a CPU: the dense model as GGUF in four types.

    The file needs no vocabulary: tokens are given by number.
    """

    kinds: ClassVar[dict[str, str]] = {
        "fp16": "none",
        "q8_0": "q8_0",
        "q4_k_m": "q4_k_m",
        "q4_0": "q4_0",
    }

    def require(self, device: str) -> None:
        llamacpp.require_package("--engine llamacpp")
        require_device(device, "cpu", "llamacpp")

    def about(self) -> dict[str, Any]:
        import llama_cpp

        return {
            "llama-cpp-python": metadata.version("llama-cpp-python"),
            "build": llama_cpp.llama_print_system_info().decode(),
        }

    def contestants(
        self, versions: ModelVersions, step: Step, device: str, threads: int
    ) -> list[Contestant]:
        gguf: Any = registry.load(registry.lookup("exports", "gguf"))
        folder = versions.folder(DENSE)
        files = {kind: versions.workdir / f"{kind}.gguf" for kind in self.kinds}
        new = {kind: file for kind, file in files.items() if not file.exists()}
        for kind, file in new.items():
            if kind == "q4_k_m":
                llamacpp.quantize(files["fp16"], file, kind, threads)
            else:
                gguf.write_file(folder, file, kind.replace("fp", "f"))
        if new:
            _check(folder, new, threads)
        return [_contestant(kind, file, step, threads) for kind, file in files.items()]


def _contestant(kind: str, file: Path, step: Step, threads: int) -> Contestant:
    from gguf import GGUFReader

    sizes = {tensor.name: int(tensor.n_bytes) for tensor in GGUFReader(file).tensors}
    # Without a matrix for the head, the embedding is the head.
    nbytes = sum(sizes.values()) - (sizes["token_embd.weight"] if "output.weight" in sizes else 0)

    def logits(ids: Tensor) -> Tensor:
        return llamacpp.logits(file, ids, threads)

    return Contestant(kind, DENSE, _work(file, step, threads), {}, nbytes, logits)


def _check(folder: Path, files: dict[str, Path], threads: int) -> None:
    """Raise UserError if the logits of a prompt are not the model's."""
    ids = np.random.default_rng(1).integers(RANDOM_TOKENS, size=CHECK_TOKENS)
    dense = loading.load(folder, Compute())
    for kind, file in files.items():
        of_file = llamacpp.LlamaCppModel(file, threads)
        error = function_error(dense, of_file, torch.from_numpy(ids)[None])
        if not error <= TOLERANCES[kind]:
            raise UserError(
                f"llama.cpp gives other logits for {folder} as GGUF {kind}: they differ by "
                f"{error:.2g} of their size: leave it out of --engine"
            )


def _work(file: Path, step: Step, threads: int) -> Work:
    ids = np.random.default_rng(0).integers(RANDOM_TOKENS, size=step.kv + step.prompt).tolist()
    llama = llamacpp.load(file, len(ids), threads)
    if step.kv:
        llama.eval(ids[: step.kv])
    last = ids[step.kv :]

    def work() -> None:
        # `eval` drops the later cache entries.
        llama.n_tokens = step.kv
        llama.eval(last)

    return work
