"""Wanda, SparseGPT and GPTQ beside llm-compressor's and beside the arithmetic, on half a billion
weights.

The same calibration tokens of wiki-mini for both, bfloat16, 2:4 or int4 in groups of 128, one
thread. llm-compressor needs an older transformers, so it runs in another environment: see
other_tools/llm_compressor_one_shot.py. Perplexity is that of `folder` rows on the same windows of
wiki-mini.

Seconds are those of the processor, which other programs lengthen less. "arithmetic" is two passes
over the blocks and one X^T X for each distinct input, at the speed of the fastest product in this
process: bfloat16 for the passes, float32 for X^T X.

python benchmarks/llm_compressor.py VENV/bin/python [--methods wanda,sparsegpt,gptq]
    [--model qwen2.5-coder-0.5b-instruct-q4] [--sequences 16]
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import timeit
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import (
    ROOT,
    Figures,
    call,
    draw_tokens,
    finish,
    like_a_worker,
    make_method,
    open_model,
    recorded,
    say,
    split,
    start,
)

from bench.inputs import loading
from bench.system.cache import temporary_folder
from methods.contract.method import Compute, Job
from methods.contract.pattern import Pattern
from methods.model.folder import save

SEQLEN, WINDOWS, PASSES = 512, 16, 2
OURS = {
    "wanda": ("methods", "wanda", Pattern(2, 4)),
    "sparsegpt": ("methods", "sparsegpt", Pattern(2, 4)),
    "gptq": ("quantizers", "int4-gptq", Pattern()),
}
SCRIPT = ROOT / "benchmarks" / "other_tools" / "llm_compressor_one_shot.py"


def peak(width: int, out: int, dtype: torch.dtype) -> float:
    """Return floating-point operations per second of the fastest of eight products."""
    x, weight = torch.randn(2048, width).to(dtype), torch.randn(out, width).to(dtype)
    times = timeit.repeat(lambda: x @ weight.T, number=1, repeat=8, timer=time.process_time)
    return 2 * 2048 * width * out / min(times)


def arithmetic_seconds(shapes: dict[str, tuple[int, ...]], tokens: int, method: str) -> float:
    """Return the seconds of the passes and of X^T X at the peak. shapes: of the targets."""
    width = max(shape[1] for shape in shapes.values())
    weights = sum(shape[0] * shape[1] for shape in shapes.values())
    took = 2.0 * weights * PASSES * tokens / peak(width, width, torch.bfloat16)
    if method != "wanda":
        # X^T X is symmetric. Queries, keys and values have one input, gate and up as well.
        own = {n: s for n, s in shapes.items() if not n.endswith(("k_proj", "v_proj", "up_proj"))}
        took += tokens * sum(s[1] ** 2 for s in own.values()) / peak(width, width, torch.float32)
    return took


def ours(method: str, folder: Path, tokens: torch.Tensor, out: Path) -> dict[str, Any]:
    """Compress a model by our method, save it, and return the seconds."""
    section, name, pattern = OURS[method]
    model = loading.load(folder, Compute(dtype=torch.bfloat16))
    _, _, targets = open_model(folder.name)
    compute = Compute(dtype=torch.bfloat16)
    with temporary_folder("ours") as room:
        job = Job(
            source=folder, pattern=pattern, targets=targets, calibration=tokens, compute=compute,
            workdir=room,
        )  # fmt: skip
        started = time.process_time(), time.monotonic()
        make_method(section, name).apply(model, job)
        took = time.process_time() - started[0], time.monotonic() - started[1]
    save(model, out, torch.bfloat16)
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / file, out)
    return {"cpu": took[0], "wall": took[1]}


def theirs(python: Path, method: str, folder: Path, ids: Path, out: Path) -> dict[str, Any]:
    """Compress a model by llm-compressor, and return what its script printed."""
    command = [str(word) for word in (python, SCRIPT, method, folder, ids, out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def perplexities(model: str, folders: list[Path], room: Path) -> dict[str, float]:
    """Return the perplexity of each folder in rows of `bench run`, by the folder's name."""
    rows = ",".join(f"folder:path={folder}" for folder in folders)
    settings = {"data": "wiki-mini", "seqlen": SEQLEN, "windows": WINDOWS}
    given = " ".join(f"--set perplexity.{name}={value}" for name, value in settings.items())
    what = f"run --model {model} --methods {rows} --quant none --measures perplexity"
    call("bench", f"{what} --dtype bfloat16 --set threads=1 {given} --results {room}")
    found = {}
    for path in (room / "records").iterdir():
        record = json.loads(path.read_text())
        for reading in record["readings"]:
            if reading["metric"] == "perplexity":
                found[str(record["identity"]["stages"])] = float(reading["value"])
    return {
        folder.name: value for folder in folders for stages, value in found.items()
        if folder.name in stages
    }  # fmt: skip


def main(
    python: Path,
    methods: str = ",".join(OURS),
    model: str = "qwen2.5-coder-0.5b-instruct-q4",
    sequences: int = 16,
) -> None:
    like_a_worker()
    torch.set_num_threads(1)
    found, opened, targets = open_model(model)
    tokens = draw_tokens(found.folder, sequences, SEQLEN)
    known = opened.shapes()
    shapes = {target: known[f"{target}.weight"] for target in targets}
    figures: Figures = {"tokens": f"{sequences} x {SEQLEN}", "threads": 1}
    for method in split(methods, OURS):
        with temporary_folder("beside") as room:
            ids = room / "ids.npy"
            np.save(ids, tokens.numpy())
            took = {"arithmetic": arithmetic_seconds(shapes, tokens.numel(), method)}
            mine = ours(method, found.folder, tokens, room / "ours")
            say(method, took, mine)
            other = theirs(python, method, found.folder, ids, room / "llm-compressor")
            say(other)
            took |= {"ours": mine["cpu"], "llm-compressor": other["cpu"]}
            measured = perplexities(model, [room / "ours", room / "llm-compressor"], room / "rows")
        figures[method] = {
            "ours / arithmetic": round(took["ours"] / took["arithmetic"], 3),
            "llm-compressor / ours": round(took["llm-compressor"] / took["ours"], 3),
            "seconds of the processor": {name: round(value, 1) for name, value in took.items()},
            "perplexity": {name: round(value, 3) for name, value in measured.items()},
        }
        figures["llm-compressor"] = other["version"]
        finish("llm_compressor", recorded("llm_compressor") | {model: figures})


if __name__ == "__main__":
    start(main)
