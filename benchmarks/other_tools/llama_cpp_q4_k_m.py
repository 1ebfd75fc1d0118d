"""Quantize a GGUF file to Q4_K_M with llama.cpp.

Its loader rounds inputs to 8 bits where weights are quantized. So the logits are those of the same
file, written as F32 by llama.cpp itself.

python llama_cpp_q4_k_m.py ORIGINAL.gguf IDS OUT.gguf
"""
# /// script
# dependencies = ["llama-cpp-py-sync==0.11739", "numpy"]
# ///

import sys

import numpy as np
from llama_cpp_py_sync._cffi_bindings import get_ffi, get_lib

original, ids, out = sys.argv[1:]
ffi, llama = get_ffi(), get_lib()
ALL_F32, Q4_K_M = 0, 15


def quantize(source: str, target: str, kind: int) -> None:
    about = llama.llama_model_quantize_default_params()
    about.nthread, about.ftype, about.allow_requantize = 1, kind, True
    if llama.llama_model_quantize(source.encode(), target.encode(), ffi.addressof(about)):
        sys.exit(f"llama.cpp cannot quantize {source}")


def logits(file: str, tokens: np.ndarray) -> np.ndarray:
    """Return the logits [tokens, vocabulary] of each position."""
    model = llama.llama_model_load_from_file(file.encode(), llama.llama_model_default_params())
    about = llama.llama_context_default_params()
    about.n_ctx = about.n_batch = about.n_ubatch = len(tokens)
    about.n_threads = about.n_threads_batch = 1
    about.type_k = about.type_v = ALL_F32
    about.flash_attn_type = 0
    context = llama.llama_init_from_model(model, about)
    batch = llama.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = (
            int(token),
            i,
            1,
            0,
            1,
        )
    if llama.llama_decode(context, batch):
        sys.exit(f"llama.cpp cannot run {file}")
    size = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    values = ffi.buffer(llama.llama_get_logits(context), 4 * len(tokens) * size)
    return np.frombuffer(values, np.float32).reshape(len(tokens), size).copy()


llama.llama_backend_init()
quantize(original, out, Q4_K_M)
quantize(out, f"{out}.f32", ALL_F32)
probe = np.load(ids)["probe"]
np.save(f"{out}.rounded.logits.npy", logits(out, probe))
np.save(f"{out}.logits.npy", logits(f"{out}.f32", probe))
