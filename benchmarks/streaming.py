"""Memory and time of Wanda and SparseGPT, streamed from disk block by block and in memory.

LLaMAs of random weights from 0.3 to 1.1 billion (TinyLlama's shape), and a mixture of 0.8 billion
in four blocks of 16 experts. With --experts alone, a quarter of the experts is removed from a
mixture of 1.5 billion in 16 blocks of 8 experts, 3 GB, with `max_memory=1`.

`bench prune` in another process, bfloat16, 2:4, 4 x 256 calibration tokens, one thread: seconds of
CPU of the whole command, and the most memory that one of its processes had. Each row is saved once
it is measured.

Of the mixture only the memory is kept. To measure other code: --mixture --modes streamed --label
"streamed by block" with a PYTHONPATH that leads to it. --layers leaves out the mixture, and
--mixture the others. --folder keeps the models there.

python benchmarks/streaming.py [--layers 4,22] [--mixture | --experts] [--methods wanda]
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import ROOT, Figures, apart, finish, recorded, split, start

ASSETS = ROOT / "bench" / "assets" / "tiny"
LAYERS = (4, 10, 16, 22)
"""The last has TinyLlama's 1.1 billion."""
HIDDEN, INNER, HEADS, KEYS, VOCABULARY = 2048, 5632, 32, 4, 32000
MODES = {"streamed": "true", "in memory": "false"}
COMPARED = (LAYERS[0], LAYERS[-1])
"""Sizes that are pruned in memory, too."""
EXPERTS, EXPERT_BLOCKS, EXPERT_HIDDEN, EXPERT_INNER = 16, 4, 1024, 3584
"""Shape of the mixture: Mixtral's in a quarter of its width."""
FEW_EXPERTS, MANY_BLOCKS = 8, 16
"""Shape of the mixture that loses experts."""
IMPORTS = ("bench.execution.worker", "baselines.experts", "transformers.models.mixtral")
SETTINGS = ("calibration.sequences=4", "calibration.seqlen=256", "dtype=bfloat16", "threads=1")
Shapes = dict[str, tuple[int, int]]
"""Shape of each linear of a block, [out, in]."""


def parameters(layers: int, hidden: int, linears: Shapes) -> int:
    """Return the number of weights of a model that `make` writes."""
    block = sum(map(math.prod, linears.values())) + 2 * hidden
    return 2 * VOCABULARY * hidden + hidden + layers * block


def dense_linears() -> Shapes:
    """Return the shapes of a block's linears, [out, in]."""
    width = HIDDEN * KEYS // HEADS
    return {
        "self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (width, HIDDEN),
        "self_attn.v_proj": (width, HIDDEN), "self_attn.o_proj": (HIDDEN, HIDDEN),
        "mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN),
        "mlp.down_proj": (HIDDEN, INNER),
    }  # fmt: skip


def mixture_linears(experts: int = EXPERTS) -> Shapes:
    """Return the same of the mixture, named as in published files."""
    hidden, width = EXPERT_HIDDEN, EXPERT_HIDDEN * KEYS // HEADS
    attention = {"q": hidden, "k": width, "v": width, "o": hidden}
    linears = {f"self_attn.{name}_proj": (out, hidden) for name, out in attention.items()}
    linears["block_sparse_moe.gate"] = (experts, hidden)
    for number in range(experts):
        prefix = f"block_sparse_moe.experts.{number}"
        linears |= {f"{prefix}.{name}": (EXPERT_INNER, hidden) for name in ("w1", "w3")}
        linears[f"{prefix}.w2"] = (hidden, EXPERT_INNER)
    return linears


def make(folder: Path, layers: int, hidden: int, linears: Shapes, config: Figures) -> None:
    """Write a model with random weights, a block at a time."""
    import torch

    from methods.model.folder import Writer

    generator = torch.Generator().manual_seed(layers)

    def weight(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).mul_(0.02).bfloat16()

    writer = Writer(folder, 2**29)
    writer.add("model.embed_tokens.weight", weight(VOCABULARY, hidden))
    for i in range(layers):
        for name, shape in linears.items():
            writer.add(f"model.layers.{i}.{name}.weight", weight(*shape))
        for name in ("input_layernorm", "post_attention_layernorm"):
            writer.add(f"model.layers.{i}.{name}.weight", torch.ones(hidden, dtype=torch.bfloat16))
    writer.add("model.norm.weight", torch.ones(hidden, dtype=torch.bfloat16))
    writer.add("lm_head.weight", weight(VOCABULARY, hidden))
    writer.close()
    config = {
        "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": HEADS,
        "num_key_value_heads": KEYS, "vocab_size": VOCABULARY, "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "dtype": "bfloat16", "bos_token_id": 1,
        "eos_token_id": 2,
    } | config  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(ASSETS / name, folder / name)


def make_dense(folder: Path, layers: int) -> None:
    about = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    make(folder, layers, HIDDEN, dense_linears(), about | {"intermediate_size": INNER})


def make_mixture(folder: Path, blocks: int = EXPERT_BLOCKS, experts: int = EXPERTS) -> None:
    about = {
        "architectures": ["MixtralForCausalLM"], "model_type": "mixtral",
        "intermediate_size": EXPERT_INNER, "num_local_experts": experts, "num_experts_per_tok": 2,
    }  # fmt: skip
    make(folder, blocks, EXPERT_HIDDEN, mixture_linears(experts), about)


def prune(model: Path, method: str, mode: str, out: Path, *more: str) -> dict[str, float]:
    """Return the seconds of CPU of a `bench prune`, and the peak memory of its largest process.
    more: settings."""
    command = [sys.executable, "-m", "bench", "prune", "--model", str(model), "--method", method]
    command += ["--out", str(out)]
    command += [f"--set={setting}" for setting in (*SETTINGS, f"stream={MODES[mode]}", *more)]
    row = run(command)
    shutil.rmtree(out)
    # The next run would find the artifact there.
    shutil.rmtree(Path(os.environ["CAST_BENCH_CACHE"]) / "artifacts")
    return row


def run(command: list[str]) -> dict[str, float]:
    """Run a command, and return its seconds of CPU and the peak memory of its largest process."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{' '.join(command)} ended with code {child.returncode}")
    took = round(usage.ru_utime + usage.ru_stime, 1)
    return {"seconds of CPU": took, "peak_bytes": usage.ru_maxrss * 1024}


def main(
    layers: str = "",
    mixture: bool = False,
    experts: bool = False,
    methods: str = "wanda,sparsegpt",
    modes: str = ",".join(MODES),
    label: str = "streamed by expert",
    folder: Path | None = None,
) -> None:
    ways = split(modes, MODES)
    counts = [int(count) for count in layers.split(",")] if layers else LAYERS
    about = {"a model": "random weights, bfloat16", "calibration": "4 x 256 tokens"}
    # Rows that are not measured now stay.
    figures: Figures = recorded("streaming") or about
    with tempfile.TemporaryDirectory(dir=folder) as room:
        os.environ["CAST_BENCH_CACHE"] = str(Path(room) / "cache")  # its artifacts are deleted
        home, out = folder or Path(room), Path(room) / "out"
        if experts:
            model = home / "random-experts"
            if not (model / "config.json").exists():
                apart(make_mixture, model, MANY_BLOCKS, FEW_EXPERTS)
            billions = parameters(MANY_BLOCKS, EXPERT_HIDDEN, mixture_linears(FEW_EXPERTS)) / 1e9
            imports = "; ".join(f"import {name}" for name in IMPORTS)
            method = "experts:drop=25%"
            peaks = {
                "libraries": run([sys.executable, "-c", imports]),
                method: prune(model, method, "streamed", out, "max_memory=1"),
            }
            figures[f"{billions:.1f} B, a mixture"] = {
                name: {"peak_bytes": row["peak_bytes"]} for name, row in peaks.items()
            }
            finish("streaming", by_size(figures))
            return
        for count in () if mixture else counts:
            model = home / f"random-{count}"
            if not (model / "config.json").exists():
                apart(make_dense, model, count)
            size = f"{parameters(count, HIDDEN, dense_linears()) / 1e9:.1f} B"
            for method in methods.split(","):
                for mode in ways if count in COMPARED else ways[:1]:
                    row = prune(model, method, mode, out)
                    figures.setdefault(size, {})[f"{method}, {mode}"] = row
                    finish("streaming", by_size(figures))
        if mixture or not layers:
            model = home / "random-mixture"
            if not (model / "config.json").exists():
                apart(make_mixture, model)
            billions = parameters(EXPERT_BLOCKS, EXPERT_HIDDEN, mixture_linears()) / 1e9
            rows = figures.setdefault(f"{billions:.1f} B, a mixture", {})
            for method in methods.split(","):
                for mode in ways:
                    peak = prune(model, method, mode, out)["peak_bytes"]
                    name = label if mode == "streamed" else mode
                    rows[f"{method}, {name}"] = {"peak_bytes": peak}
                    finish("streaming", by_size(figures))


def by_size(figures: Figures) -> Figures:
    """Sort: first what holds for all models, then the smallest model, and the mixture last."""

    def place(name: str) -> tuple[bool, bool, str]:
        return "mixture" in name, isinstance(figures[name], dict), name

    return {name: figures[name] for name in sorted(figures, key=place)}


if __name__ == "__main__":
    start(main)
