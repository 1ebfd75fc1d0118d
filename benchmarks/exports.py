"""Exported models, each loaded by its own engine, beside the model that was measured.

Needs the extras compressed-tensors and llamacpp, and gptqmodel and optimum. The first load by
gptqmodel compiles a kernel. Logits are those of a text of 64 tokens. Tokens are 64 of a greedy
continuation, counted up to the first other one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from harness import (
    MODEL,
    ROOT,
    Figures,
    call,
    finish,
    like_a_worker,
    recorded,
    say,
    significant,
    start,
)
from torch import Tensor

from bench.catalog.choice import parse_quantizer
from bench.inputs import gguf_header, llamacpp, loading
from bench.results.rows import newest
from bench.results.store import ReadOnlyStore
from bench.system.cache import temporary_folder
from methods.contract.method import Compute
from methods.model.folder import Folder
from methods.model.targets import find_targets

TEXT = ROOT / "LICENSE"
TOKENS = 64
SETTINGS = (
    "--dtype bfloat16 --device cpu --set threads=1 --set calibration.sequences=32 --set "
    "calibration.seqlen=512"
)


class Case(NamedTuple):
    """An exported row, and the package that loads it."""

    method: str
    quantizer: str
    format: str
    package: str
    values: str = ""
    imatrix: str = ""


CASES = (
    Case("dense", "int4-gptq", "compressed-tensors", "compressed-tensors"),
    Case("dense", "nvfp4", "compressed-tensors", "compressed-tensors"),
    Case("dense", "int4-gptq", "gptq", "gptqmodel"),
    Case("awq", "int4-rtn", "awq", "gptqmodel"),
    Case("dense", "int8", "gguf", "llama-cpp-python", "q8_0"),
    Case("dense", "none", "gguf", "llama-cpp-python", "q4_k_m"),
    Case("dense", "none", "gguf", "llama-cpp-python", "q4_k_m", "wiki-mini"),
)


def logits_of(folder: Path, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Return a function from tokens [seqlen] to logits [seqlen, vocabulary], by transformers or
    llama.cpp."""
    if files := list(folder.glob("*.gguf")):
        return lambda tokens: llamacpp.logits(files[0], tokens, 1)
    model = loading.load(folder, Compute(dtype=dtype))
    return lambda tokens: model(input_ids=tokens[None]).logits[0].float()


@torch.inference_mode()
def continuation(logits: Callable[[Tensor], Tensor], prompt: Tensor) -> list[int]:
    """Return the greedy tokens after a prompt."""
    tokens = prompt
    for _ in range(TOKENS):
        tokens = torch.cat([tokens, logits(tokens)[-1:].argmax(-1)])
    return list(map(int, tokens[len(prompt) :]))


def bits_in_files(folder: Path, dense: Folder) -> float:
    """Return the bits of the linears of the blocks per weight, read from the headers of the
    files."""
    targets = find_targets(dense.config, dense.shapes())
    weights = sum(math.prod(dense.shapes()[f"{target}.weight"]) for target in targets)
    if files := list(folder.glob("*.gguf")):
        tensors = gguf_header.read(files[0]).tensors.items()
        linears = [t for name, t in tensors if name.startswith("blk.") and len(t.shape) == 2]
        return 8 * sum(t.size for t in linears) / weights
    stored, names = Folder(folder), set(targets)
    sizes = [stored.tensor(n).nbytes for n in stored if n.rpartition(".")[0] in names]
    return 8 * sum(sizes) / weights


def compare(case: Case, model: str, room: Path) -> Figures:
    """Export a row, load it, and return how it differs."""
    rows = f"--methods {case.method} --quant {case.quantizer} --measures size"
    place = ("--results", room / "records")
    call("bench", f"run {rows} {SETTINGS}", "--model", model, *place)
    quantizer = parse_quantizer(case.quantizer)
    about = (case.method, quantizer.label if quantizer else "none", "size")
    for one in newest(ReadOnlyStore(room / "records")):
        if (one.identity.method, one.identity.quantizer, one.identity.measure) == about:
            record = one
    (counted,) = (r.value for r in record.readings if r.metric == "bits_per_weight")
    parts = (case.format, case.method, case.quantizer, case.values, case.imatrix)
    name = "-".join(filter(None, parts))
    ours, theirs = room / f"hf-{name}", room / name
    call("bench", f"export {record.key} --format hf", "--out", ours, *place)
    options = f" --values {case.values}" if case.values else ""
    options += f" --imatrix {case.imatrix}" if case.imatrix else ""
    call("bench", f"export {record.key} --format {case.format}{options}", "--out", theirs, *place)
    prompt = torch.tensor(loading.load_tokenizer(ours)(TEXT.read_text())["input_ids"])[:TOKENS]
    # In the dtype of the files a scale times an integer is the weight that was measured. llama.cpp
    # computes in float32.
    dtype = torch.float32 if case.format == "gguf" else torch.bfloat16
    own, other = (logits_of(folder, dtype) for folder in (ours, theirs))
    with torch.inference_mode():
        expected, found = own(prompt), other(prompt)
    pairs = zip(continuation(own, prompt), continuation(other, prompt), strict=True)
    same = [i for i, (a, b) in enumerate(pairs) if a != b]
    files = [f for f in theirs.glob("*") if f.suffix in (".gguf", ".safetensors")]
    difference = float((found - expected).norm() / expected.norm())
    first = int((found.argmax(-1) == expected.argmax(-1)).sum())
    return {
        "difference of logits, of their size": significant(difference),
        f"of {TOKENS} positions with the same first token": first,
        f"of {TOKENS} greedy tokens the same": min(same, default=TOKENS),
        "files, MB": round(sum(f.stat().st_size for f in files) / 1e6, 2),
        "bits per weight in the files": round(bits_in_files(theirs, Folder(ours)), 3),
        "bits per weight of the row": round(float(counted or 0), 3),
        "loaded by": f"{case.package} {version(case.package)}",
    }


def main(model: str = MODEL) -> None:
    like_a_worker()
    torch.set_num_threads(1)
    figures: Figures = {}
    with temporary_folder("exports") as room:
        for case in CASES:
            named = case.imatrix and "imatrix"
            parts = (case.format, case.method, case.values or case.quantizer, named)
            name = (
                f"{model}: {' '.join(part for part in parts if part not in ('', 'dense', 'none'))}"
            )
            figures[name] = compare(case, model, room)
            say(name, json.dumps(figures[name]))
    finish("exports", recorded("exports") | figures)


if __name__ == "__main__":
    start(main)
