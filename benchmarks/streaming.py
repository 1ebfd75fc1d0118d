"""Memory and time of pruning block by block: LLaMAs of random weights from 0.3 to 1.1 billion
(TinyLlama's shape), by Wanda and SparseGPT, streamed from disk and in memory; and a mixture of 0.8
billion in four blocks of 16 experts.

`bench prune` in another process, bfloat16, 2:4, 4 x 256 calibration tokens, one thread: seconds of
CPU of the whole command, and the most memory that one of its processes had. Each row is saved once
it is measured.

Of the mixture only the memory is kept. To measure other code: --mixture --modes streamed --label
"streamed by block" with a PYTHONPATH that leads to it. --layers leaves out the mixture, and
--mixture the others. --folder keeps the models there.

python benchmarks/streaming.py [--layers 4,22] [--mixture] [--methods wanda] [--folder DIR]
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
from typing import Any

from harness import RESULTS, apart, finish, recorded, split, start

ASSETS = Path(__file__).parent.parent / "bench" / "assets" / "tiny"
LAYERS = (4, 10, 16, 22)
"""The last has TinyLlama's 1.1 billion."""
HIDDEN, INNER, HEADS, KEYS, VOCABULARY = 2048, 5632, 32, 4, 32000
MODES = {"streamed": "true", "in memory": "false"}
COMPARED = (LAYERS[0], LAYERS[-1])
"""Sizes that are pruned in memory, too."""
EXPERTS, EXPERT_BLOCKS, EXPERT_HIDDEN, EXPERT_INNER = 16, 4, 1024, 3584
"""Shape of the mixture: Mixtral's in a quarter of its width."""
SETTINGS = ("calibration.sequences=4", "calibration.seqlen=256", "dtype=bfloat16", "threads=1")


def parameters(layers: int, hidden: int, linears: dict[str, tuple[int, int]]) -> int:
    """Count the weights of a model that `make` writes."""
    return (
        2 * VOCABULARY * hidden
        + hidden
        + layers * (sum(map(math.prod, linears.values())) + 2 * hidden)
    )


def dense_linears() -> dict[str, tuple[int, int]]:
    """Return the shapes of a block's linears, [out, in]."""
    width = HIDDEN * KEYS // HEADS
    return {
        "self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (width, HIDDEN),
        "self_attn.v_proj": (width, HIDDEN), "self_attn.o_proj": (HIDDEN, HIDDEN),
        "mlp.gate_proj": (INNER, HIDDEN), "mlp.up_proj": (INNER, HIDDEN),
        "mlp.down_proj": (HIDDEN, INNER),
    }  # fmt: skip


def mixture_linears() -> dict[str, tuple[int, int]]:
    """Return the same of the mixture, named as in published files."""
    hidden, width = EXPERT_HIDDEN, EXPERT_HIDDEN * KEYS // HEADS
    attention = {
        "q": (hidden, hidden),
        "k": (width, hidden),
        "v": (width, hidden),
        "o": (hidden, hidden),
    }
    linears = {f"self_attn.{name}_proj": shape for name, shape in attention.items()}
    linears["block_sparse_moe.gate"] = (EXPERTS, hidden)
    for number in range(EXPERTS):
        prefix = f"block_sparse_moe.experts.{number}"
        linears |= {f"{prefix}.{name}": (EXPERT_INNER, hidden) for name in ("w1", "w3")}
        linears[f"{prefix}.w2"] = (hidden, EXPERT_INNER)
    return linears


def make(
    folder: Path,
    layers: int,
    hidden: int,
    linears: dict[str, tuple[int, int]],
    config: dict[str, Any],
) -> None:
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
    about = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "intermediate_size": INNER,
    }
    make(folder, layers, HIDDEN, dense_linears(), about)


def make_mixture(folder: Path) -> None:
    about = {
        "architectures": ["MixtralForCausalLM"], "model_type": "mixtral",
        "intermediate_size": EXPERT_INNER, "num_local_experts": EXPERTS, "num_experts_per_tok": 2,
    }  # fmt: skip
    make(folder, EXPERT_BLOCKS, EXPERT_HIDDEN, mixture_linears(), about)


def prune(model: Path, method: str, mode: str, out: Path) -> dict[str, float]:
    """Seconds of CPU of a `bench prune`, and the peak resident bytes of its largest process."""
    settings = [
        word for setting in (*SETTINGS, f"stream={MODES[mode]}") for word in ("--set", setting)
    ]
    command = [
        sys.executable,
        "-m",
        "bench",
        "prune",
        "--model",
        str(model),
        "--method",
        method,
        "--out",
        str(out),
    ]
    child = subprocess.Popen([*command, *settings], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{' '.join(map(str, child.args))} ended with code {child.returncode}")  # type: ignore[arg-type]
    shutil.rmtree(out)
    shutil.rmtree(Path(os.environ["CAST_BENCH_CACHE"]) / "artifacts")  # it would be found there
    return {
        "seconds of CPU": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_bytes": usage.ru_maxrss * 1024,
    }


def main(
    layers: str = "",
    mixture: bool = False,
    methods: str = "wanda,sparsegpt",
    modes: str = ",".join(MODES),
    label: str = "streamed by expert",
    folder: Path | None = None,
) -> None:
    chosen, ways = methods.split(","), split(modes, MODES)
    counts = [int(count) for count in layers.split(",")] if layers else LAYERS
    with tempfile.TemporaryDirectory(dir=folder) as room:
        os.environ["CAST_BENCH_CACHE"] = str(Path(room) / "cache")  # its artifacts are deleted
        home = folder or Path(room)
        figures: dict[str, Any] = {
            "a model": "random weights, bfloat16",
            "calibration": "4 x 256 tokens",
        }
        if (RESULTS / "streaming.json").exists():
            figures = recorded("streaming")  # rows that are not measured now stay
        for count in () if mixture else counts:
            model = home / f"random-{count}"
            if not (model / "config.json").exists():
                apart(make_dense, model, count)
            for method in chosen:
                for mode in ways if count in COMPARED else ways[:1]:
                    row = prune(model, method, mode, Path(room) / "out")
                    figures.setdefault(
                        f"{parameters(count, HIDDEN, dense_linears()) / 1e9:.1f} B", {}
                    )[f"{method}, {mode}"] = row
                    finish("streaming", by_size(figures))
        if mixture or not layers:
            model = home / "random-mixture"
            if not (model / "config.json").exists():
                apart(make_mixture, model)
            for method in chosen:
                for mode in ways:
                    row = prune(model, method, mode, Path(room) / "out")
                    name = label if mode == "streamed" else mode
                    size = (
                        f"{parameters(EXPERT_BLOCKS, EXPERT_HIDDEN, mixture_linears()) / 1e9:.1f} "
                        "B, a mixture"
                    )
                    figures.setdefault(size, {})[f"{method}, {name}"] = {
                        "peak_bytes": row["peak_bytes"]
                    }
                    finish("streaming", by_size(figures))


def by_size(figures: dict[str, Any]) -> dict[str, Any]:
    """Sort key: what holds for all models first, then the smallest model, and the mixture last."""
    return dict(
        sorted(
            figures.items(),
            key=lambda item: ("mixture" in item[0], isinstance(item[1], dict), item[0]),
        )
    )


if __name__ == "__main__":
    start(main)
