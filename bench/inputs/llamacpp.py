"""llama.cpp through llama-cpp-python (extra `llamacpp`): logits and tokens of a GGUF file, and its
quantizer."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.system.packages import pip_install, require
from methods.contract.errors import UserError


def require_package(what: str) -> None:
    """Refuse a machine without the package. what: the feature that needs it."""
    require("llama_cpp", what=what, how=f"{pip_install('llamacpp')}, which compiles it")


@cache
def _quiet() -> Any:
    """Import the package, and drop its warnings, for example of tensors for which a type is too
    wide."""
    import llama_cpp

    llama_cpp.llama_log_set(_ignore(llama_cpp), ctypes.c_void_p(0))
    return llama_cpp


@cache
def _ignore(llama_cpp: Any) -> Any:
    """Return a callback that does nothing. The cache keeps it alive for the library."""
    return llama_cpp.llama_log_callback(lambda *_: None)


def load(file: Path, tokens: int, threads: int, *, logits_all: bool = False) -> Any:
    """Load a file for sequences of up to `tokens` tokens. logits_all: keep the logits of each."""
    import llama_cpp

    return llama_cpp.Llama(
        str(file), n_ctx=tokens, n_batch=tokens, n_ubatch=tokens, n_threads=threads,
        n_threads_batch=threads, logits_all=logits_all, verbose=False,
    )  # fmt: skip


def logits(file: Path, tokens: Tensor, threads: int) -> Tensor:
    """Return the logits of a file, float32 [seqlen, vocabulary]. tokens: int64 [seqlen]."""
    llama = load(file, len(tokens), threads, logits_all=True)
    llama.eval(tokens.tolist())
    return torch.from_numpy(np.array(llama.scores[: len(tokens)]))


class LlamaCppModel(nn.Module):
    """A file that is called as a model of transformers is, for one sequence."""

    def __init__(self, file: Path, threads: int) -> None:
        super().__init__()
        self.file, self.threads = file, threads

    def forward(self, input_ids: Tensor, **_: Any) -> SimpleNamespace:
        """Return the logits, float32 [1, seqlen, vocabulary]. input_ids: int64 [1, seqlen]."""
        return SimpleNamespace(logits=logits(self.file, input_ids[0], self.threads)[None])


def tokenize(file: Path, text: str) -> list[int]:
    """Return the tokens of a text by a file's vocabulary, without special tokens."""
    llama_cpp = _quiet()
    found: list[int] = llama_cpp.Llama(str(file), vocab_only=True, verbose=False).tokenize(
        text.encode(), add_bos=False
    )
    return found


def quantize(
    file: Path,
    out: Path,
    kind: str,
    threads: int,
    importance: Mapping[str, Tensor] | None = None,
    *,
    pure: bool = False,
) -> None:
    """Write a file again in another kind, for example q4_k_m. llama.cpp chooses the type of each
    tensor.

    importance: mean square of each input of a matrix, by its name in the file. pure: give all
    matrices one type.
    """
    from gguf import LlamaFileType

    llama_cpp = _quiet()
    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread, params.ftype, params.pure = (
        threads,
        LlamaFileType[f"MOSTLY_{kind.upper()}"],
        pure,
    )
    vectors = {
        name: np.ascontiguousarray(x.float().cpu().numpy(), np.float32)
        for name, x in (importance or {}).items()
    }
    if vectors:
        entries = [
            (name.encode(), x.ctypes.data_as(ctypes.POINTER(ctypes.c_float)), x.size)
            for name, x in vectors.items()
        ]
        # An entry without a name is the last.
        params.imatrix = (llama_cpp.llama_model_imatrix_data * (len(entries) + 1))(*entries)
    if llama_cpp.llama_model_quantize(bytes(file), bytes(out), ctypes.byref(params)):
        raise UserError(f"llama.cpp cannot write {kind}: use --values f16, q8_0 or q4_0")
