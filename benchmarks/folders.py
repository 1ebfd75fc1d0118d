"""Models of five tools, read by `folder:path=`: logits against each tool's own loader, and bytes against the files.

python benchmarks/folders.py draw            tokens for the scripts in benchmarks/other_tools: calibration and a prompt
python benchmarks/folders.py compare         IDS and what the scripts wrote are in this folder, by the names of TOOLS;
                                             bench run --config benchmarks/other_tools/rows.toml --results rows ran here

Every script runs in a separate environment: the packages are at its top. Each but llama.cpp's is given the folder of
smollm2-135m-instruct-q4; llama.cpp's is given the GGUF file that the folder was made from.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import draw_tokens, finish, like_a_worker

from bench.formats.method import ModelFolder
from bench.formats.opening import open_checkpoint
from bench.inputs import download, loading
from bench.results.rows import newest
from bench.results.store import ReadOnlyStore
from methods.contract import Compute, Job
from methods.folder import Folder
from methods.pattern import Pattern
from methods.targets import find_targets

MODEL = "smollm2-135m-instruct-q4"
TOOLS = {
    "llm-compressor, 2:4": "smollm2-2of4-llm-compressor",
    "ten lines, 2:4": "smollm2-2of4-ten-lines",
    "llm-compressor, W4A16": "smollm2-W4A16-llm-compressor",
    "auto-round, GPTQ": "smollm2-gptq-auto-round",
    "llama.cpp, Q4_K_M": "smollm2-Q4_K_M.gguf",
}
IDS, ROWS = Path("ids.npz"), Path("rows")
PROMPT = Path(__file__).parents[1] / "LICENSE"


def draw() -> None:
    """Write calibration [16, 256] from wiki-mini, and the first 64 tokens of a text that no tool was calibrated on."""
    folder = download.pull(MODEL).folder
    prompt = loading.load_tokenizer(folder)(PROMPT.read_text())["input_ids"][:64]
    np.savez(IDS, calibration=draw_tokens(folder, 32, 512)[:16, :256].numpy(), probe=np.array(prompt))


def compare() -> None:
    torch.set_num_threads(1)
    original = Folder(download.pull(MODEL).folder)
    probe = torch.tensor(np.load(IDS)["probe"][None])
    figures = {row: _row((row,)) for row in ("dense", "wanda")}
    for tool, name in TOOLS.items():
        figures[tool] = _row((f"folder:path={name}",)) | _compare(Path(name), original, probe)
    finish("folders", figures)


def _row(stages: tuple[str, ...]) -> dict[str, Any]:
    """Return what bench run measured: perplexity, its ratio to that of the dense model, KL divergence, and size."""
    records = [r for r in newest(ReadOnlyStore(ROWS).verified()) if r.identity.quantizer == "none"]
    values = {(r.identity.stages, reading.metric): reading.value for r in records for reading in r.readings}
    (pattern,) = {str(r.identity.pattern) for r in records if r.identity.stages == stages}
    perplexity = values[stages, "perplexity"]
    return {
        "pattern": pattern,
        "perplexity": round(perplexity, 1),
        "perplexity / dense": round(perplexity / values[("dense",), "perplexity"], 3),
        "KL": round(values[stages, "kl"], 3),
        "bits per weight": round(values[stages, "bits_per_weight"], 2),
        "MB counted": round(values[stages, "bytes"] / 1e6, 1),
    }


def _compare(path: Path, original: Folder, probe: torch.Tensor) -> dict[str, Any]:
    """Return the size of the files, and how far our logits are from those of the tool's own loader."""
    checkpoint = open_checkpoint(path, original)
    targets = find_targets(checkpoint.config, checkpoint.shapes())
    with tempfile.TemporaryDirectory() as workdir:
        job = Job(source=original.path, pattern=Pattern.parse("dense"), targets=targets, workdir=Path(workdir))
        outcome = ModelFolder(path=str(path)).apply(torch.nn.Identity(), job)
        with torch.no_grad():
            ours = loading.load(Path(str(outcome.model)), Compute())(probe).logits[0].numpy()
    theirs = np.load(f"{path}.logits.npy")
    about = {
        "MB of the files": round(_bytes(path) / 1e6, 1),
        "difference of a logit, at most": round(float(abs(ours - theirs).max()), 5),
    }
    # Logits with the tool's own rounding of inputs: float16, or 8 bits.
    for kind in ("float16", "rounded"):
        if (other := Path(f"{path}.{kind}.logits.npy")).exists():
            about["the same, as the tool itself multiplies"] = round(float(abs(ours - np.load(other)).max()), 2)
    return about | {"largest logit": round(float(abs(theirs).max()), 1)}


def _bytes(path: Path) -> int:
    return sum(f.stat().st_size for f in (path.glob("*.safetensors") if path.is_dir() else [path]))


if __name__ == "__main__":
    like_a_worker()
    {"draw": draw, "compare": compare}[sys.argv[1]]()
