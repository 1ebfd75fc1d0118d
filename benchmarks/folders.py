"""Models of five tools, read by `folder:path=`: logits against each tool's own loader, and bytes against the files.

python benchmarks/folders.py draw IDS           tokens for the scripts in benchmarks/other_tools: calibration and a prompt
python benchmarks/folders.py compare IDS DIR    DIR has what the scripts wrote, by the names of TOOLS

Every script runs in a separate environment: the packages are at its top. Each but llama.cpp's is given the folder of
smollm2-135m-instruct-q4; llama.cpp's is given the GGUF file that the folder was made from.
"""

from __future__ import annotations

import struct
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import draw_tokens, finish, like_a_worker

from bench.formats.method import ModelFolder
from bench.formats.opening import open_checkpoint
from bench.inputs import download, gguf_header, loading
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
PROMPT = Path(__file__).parents[1] / "LICENSE"


def draw(ids: Path) -> None:
    """Write calibration [16, 256] from wiki-mini, and the first 64 tokens of a text that no tool was calibrated on."""
    folder = download.pull(MODEL).folder
    prompt = loading.load_tokenizer(folder)(PROMPT.read_text())["input_ids"][:64]
    np.savez(ids, calibration=draw_tokens(folder, 32, 512)[:16, :256].numpy(), probe=np.array(prompt))


def compare(ids: Path, made: Path) -> None:
    torch.set_num_threads(1)
    original = Folder(download.pull(MODEL).folder)
    probe = torch.tensor(np.load(ids)["probe"][None])
    finish("folders", {tool: _compare(made / name, original, probe) for tool, name in TOOLS.items()})


def _compare(path: Path, original: Folder, probe: torch.Tensor) -> dict[str, Any]:
    checkpoint = open_checkpoint(path, original)
    targets = find_targets(checkpoint.config, checkpoint.shapes())
    with tempfile.TemporaryDirectory() as workdir:
        job = Job(source=original.path, pattern=Pattern.parse("dense"), targets=targets, workdir=Path(workdir))
        outcome = ModelFolder(path=str(path)).apply(torch.nn.Identity(), job)
        with torch.no_grad():
            ours = loading.load(Path(str(outcome.model)), Compute())(probe).logits[0].numpy()
    theirs = np.load(f"{path}.logits.npy")
    about = {
        "format": checkpoint.form,
        "largest difference of a logit": round(float(abs(ours - theirs).max()), 6),
        "largest logit": round(float(abs(theirs).max()), 1),
        "bytes counted / bytes of tensors in the files": round(
            outcome.notes["stored"]["total_bytes"] / _bytes(path), 4
        ),
    }
    for kind in ("float16", "rounded"):
        if (other := Path(f"{path}.{kind}.logits.npy")).exists():
            about[f"the same, {kind} as the tool runs it"] = round(float(abs(ours - np.load(other)).max()), 4)
    return about


def _bytes(path: Path) -> int:
    """Return the size of the files without their headers, which hold names, shapes and a vocabulary."""
    if path.suffix == ".gguf":
        return sum(tensor.size for tensor in gguf_header.read(path).tensors.values())
    return sum(f.stat().st_size - 8 - struct.unpack("<Q", f.open("rb").read(8))[0] for f in path.glob("*.safetensors"))


if __name__ == "__main__":
    like_a_worker()
    {"draw": draw, "compare": compare}[sys.argv[1]](*map(Path, sys.argv[2:]))
