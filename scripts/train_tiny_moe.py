"""Train `tiny-moe`, the bundled mixture of experts: 16 experts, 2 for each token, made from `tiny`.

python scripts/train_tiny_moe.py

Attention, norms and embedding start as those of tiny. An expert starts as a random choice of the
inner units of tiny's MLP, scaled so that the sum of a token's experts has the mean of the MLP.
The validation split shows when to stop. The test split is read once, at the end. The seed fixes
every bit for one build of torch and one number of threads.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import platform
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import train_tiny
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, dropout
from transformers import LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from bench.inputs import wikimini

OUT = train_tiny.OUT.parent / "tiny-moe"


@dataclass(frozen=True)
class MoeRecipe(train_tiny.Recipe):
    experts: int = 16
    active: int = 2  # experts for each token
    units: int = 128  # inner units of an expert
    steps: int = 1000
    warmup: int = 50  # steps
    lr: float = 2e-3  # peak
    lr_floor: float = 0.05  # of the peak, where the cosine ends
    dropout: float = 0.1  # of the outputs of attention and experts
    balance: float = 0.01  # weight of the loss that balances the load of the experts
    seed: int = 1
    threads: int = 1


def upcycle(dense: LlamaForCausalLM, recipe: MoeRecipe) -> MixtralForCausalLM:
    """Return a mixture whose experts have random units of the MLPs of a dense model."""
    torch.manual_seed(recipe.seed)
    old = dense.config
    config = MixtralConfig(
        vocab_size=old.vocab_size,
        hidden_size=old.hidden_size,
        intermediate_size=recipe.units,
        num_hidden_layers=old.num_hidden_layers,
        num_attention_heads=old.num_attention_heads,
        num_key_value_heads=old.num_key_value_heads,
        num_local_experts=recipe.experts,
        num_experts_per_tok=recipe.active,
        max_position_embeddings=old.max_position_embeddings,
        rms_norm_eps=old.rms_norm_eps,
        rope_parameters=old.rope_parameters,
        sliding_window=None,
        router_aux_loss_coef=recipe.balance,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        dtype="float32",
    )
    model = MixtralForCausalLM(config)
    model.load_state_dict(dense.state_dict(), strict=False)
    with torch.no_grad():
        for block, source in zip(model.model.layers, dense.model.layers, strict=True):
            inner = source.mlp.gate_proj.out_features
            for number in range(recipe.experts):
                units = torch.randperm(inner)[: recipe.units]
                gate, up = source.mlp.gate_proj.weight[units], source.mlp.up_proj.weight[units]
                down = source.mlp.down_proj.weight[:, units] * inner / recipe.units
                block.mlp.experts.gate_up_proj[number] = torch.cat([gate, up])
                block.mlp.experts.down_proj[number] = down
    return model


def add_dropout(model: MixtralForCausalLM, share: float) -> None:
    """Drop outputs of attention and experts while the model trains."""

    def drop(module: nn.Module, _inputs: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (dropout(output[0], share, module.training), *output[1:])
        return dropout(output, share, module.training)

    for block in model.model.layers:
        block.self_attn.register_forward_hook(drop)
        block.mlp.register_forward_hook(drop)


Curve = list[tuple[int, float, float]]
"""A step, the mean training loss since the last entry, and the validation loss."""


def train(model: MixtralForCausalLM, recipe: MoeRecipe, ids: Tensor, validation: Tensor) -> Curve:
    """Train the model in place. Return its curve every 100 steps."""
    add_dropout(model, recipe.dropout)
    optimizer = train_tiny.adamw(model, recipe)
    curve: Curve = []
    recent: list[float] = []
    start = time.process_time()
    for step, batch in enumerate(train_tiny.batches(ids, recipe)):
        model.train()
        for group in optimizer.param_groups:
            group["lr"] = train_tiny.lr_at(step, recipe, recipe.lr)
        out = model(batch[:, :-1], use_cache=False, output_router_logits=True)
        loss = cross_entropy(out.logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        torch.autograd.backward(loss + recipe.balance * out.aux_loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        recent.append(loss.item())
        done = step + 1
        if done % 100 == 0 or done == recipe.steps:
            held = train_tiny.evaluate(model.eval(), validation, recipe.window)
            curve.append((done, round(sum(recent) / len(recent), 4), held["loss"]))
            recent.clear()
            spent = time.process_time() - start
            print(f"step {done}/{recipe.steps}  loss {curve[-1][1]:.3f}", end="  ")
            print(f"validation {held['loss']:.4f}  {spent:.0f} CPU s", flush=True)
    return curve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    for name in ("steps", "warmup", "lr", "dropout", "weight_decay"):
        value = getattr(MoeRecipe, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    args = vars(parser.parse_args())
    out = args.pop("out")
    recipe = MoeRecipe(**args)
    torch.set_num_threads(recipe.threads)
    torch.use_deterministic_algorithms(True)

    tokenizer = Tokenizer.from_file(str(train_tiny.OUT / "tokenizer.json"))
    texts = {split: [a.text for a in wikimini.articles(split)] for split in wikimini.SPLITS}
    ids = {split: train_tiny.stream(tokenizer, docs) for split, docs in texts.items()}
    dense = LlamaForCausalLM.from_pretrained(train_tiny.OUT, dtype=torch.float32)
    model = upcycle(dense, recipe)
    began = train_tiny.evaluate(model.eval(), ids["validation"], recipe.window)
    print(f"untrained {began}", flush=True)

    start = time.process_time()
    curve = train(model, recipe, ids["train"], ids["validation"])
    train_s = time.process_time() - start
    # float16 keeps 11 bits, and every CPU computes it in float32.
    model.half()
    stored = MixtralForCausalLM(model.config).eval()
    stored.load_state_dict(model.state_dict())
    parameters = sum(p.numel() for p in model.parameters())
    expert = math.prod(model.model.layers[0].mlp.experts.gate_up_proj.shape[1:]) * 3 // 2
    idle = len(model.model.layers) * (recipe.experts - recipe.active) * expert
    diary: dict[str, Any] = {
        "recipe": asdict(recipe),
        "parameters": parameters,
        "active_parameters": parameters - idle,
        "source": hashlib.sha256((train_tiny.OUT / "model.safetensors").read_bytes()).hexdigest(),
        "data": {"name": "wiki-mini", "version": wikimini.VERSION, "sha256": wikimini.SHA256},
        "untrained": began,
        "train_loss": curve,
        "validation": train_tiny.evaluate(stored, ids["validation"], recipe.window),
        "test": train_tiny.evaluate(stored, ids["test"], recipe.window),
        "train_cpu_s": round(train_s, 1),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "transformers", "tokenizers", "safetensors")},
    }
    model.config.dtype = torch.float16
    train_tiny.save(model, tokenizer, out)
    weights = (out / "model.safetensors").read_bytes()
    diary["weights_sha256"] = hashlib.sha256(weights).hexdigest()
    (out / "TRAINING.json").write_text(json.dumps(diary, indent=2) + "\n")
    print(f"validation {diary['validation']}  test {diary['test']}  {train_s:.0f} CPU s")


if __name__ == "__main__":
    main()
