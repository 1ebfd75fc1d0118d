"""Train `tiny`, the bundled LLaMA of 0.9 million parameters, on wiki-mini.

python scripts/train_tiny.py
python scripts/train_tiny.py --hidden 64 --lr 3e-3 --out tiny-64  for a scaling law

Two short trainings choose the learning rate by the validation loss. The test split is read once, at
the end, and decides nothing. The seed fixes every bit for one build of torch and one number of
threads.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from bench.inputs import wikimini

OUT = Path(__file__).resolve().parents[1] / "bench/assets/tiny"
EOS = "<|endoftext|>"
"""End of a document. It is the BOS token too, for tools that need one. The tokenizer does not add
it."""


@dataclass(frozen=True)
class Recipe:
    """Settings of both trainings. The defaults are those of tiny."""

    window: int = 128  # tokens, in training and in evaluation
    batch: int = 32  # windows a step
    steps: int = 1500
    warmup: int = 100  # steps
    lr_floor: float = 0.1  # of the peak, where the cosine ends
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1  # on matrices only
    clip: float = 1.0  # L2 norm of all gradients
    seed: int = 0
    threads: int = 2


@dataclass(frozen=True)
class TinyRecipe(Recipe):
    vocab_size: int = 1024
    hidden_size: int = 128
    intermediate_size: int = 352
    layers: int = 4
    heads: int = 4
    lr: float | None = None  # peak; None: the better of the trials
    trial_lrs: tuple[float, ...] = (3e-3, 6e-3)
    trial_steps: int = 300


def train_tokenizer(texts: list[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE with one token for each digit."""
    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def stream(tokenizer: Tokenizer, texts: list[str]) -> Tensor:
    """Return the tokens of all documents, with EOS after each: int64 [tokens]."""
    eos = tokenizer.token_to_id(EOS)
    return torch.tensor([i for e in tokenizer.encode_batch(texts) for i in (*e.ids, eos)])


def build(recipe: TinyRecipe) -> LlamaForCausalLM:
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=recipe.vocab_size,
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=recipe.window,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        dtype="float32",
    )
    return LlamaForCausalLM(config)


def lr_at(step: int, recipe: Recipe, peak: float) -> float:
    """Return the learning rate of a step, from 0: a linear warmup, then a cosine to lr_floor."""
    if step < recipe.warmup:
        return peak * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return peak * (recipe.lr_floor + (1 - recipe.lr_floor) * (1 + math.cos(math.pi * done)) / 2)


def batches(ids: Tensor, recipe: Recipe) -> Iterator[Tensor]:
    """Yield random windows, a token longer than the context: int64 [batch, window + 1]."""
    dice = torch.Generator().manual_seed(recipe.seed)
    for _ in range(recipe.steps):
        start = torch.randint(len(ids) - recipe.window, (recipe.batch, 1), generator=dice)
        yield ids[start + torch.arange(recipe.window + 1)]


def adamw(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """Return an optimizer that decays all weights except vectors."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim == 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=recipe.betas)


Curve = list[tuple[int, float]]
"""A step, and the mean training loss since the last entry."""


def train(recipe: TinyRecipe, peak: float, ids: Tensor) -> tuple[LlamaForCausalLM, Curve]:
    """Return the model, and its curve every 50 steps."""
    model = build(recipe).train()
    optimizer = adamw(model, recipe)
    curve: Curve = []
    recent: list[float] = []
    start = time.perf_counter()
    for step, batch in enumerate(batches(ids, recipe)):
        for group in optimizer.param_groups:
            group["lr"] = lr_at(step, recipe, peak)
        logits = model(batch[:, :-1], use_cache=False).logits
        loss = cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        recent.append(loss.item())
        done = step + 1
        if done % 50 == 0 or done == recipe.steps:
            curve.append((done, round(sum(recent) / len(recent), 4)))
            recent.clear()
            report(done, recipe, peak, curve[-1][1], time.perf_counter() - start)
    return model.eval(), curve


def report(done: int, recipe: TinyRecipe, peak: float, loss: float, wall_s: float) -> None:
    rate = done * recipe.batch * recipe.window / wall_s
    end = datetime.now() + timedelta(seconds=wall_s * (recipe.steps - done) / done)
    print(f"lr {peak:g}  step {done}/{recipe.steps}  loss {loss:.3f}", end="  ")
    print(f"{rate:,.0f} tokens/s  done at {end:%H:%M:%S}", flush=True)


@torch.no_grad()
def evaluate(model: LlamaForCausalLM, ids: Tensor, window: int) -> dict[str, float]:
    """Return the mean loss over whole windows that do not overlap, without their first tokens."""
    rows = ids[: len(ids) // window * window].view(-1, window)
    total = 0.0  # nats
    for part in torch.split(rows, 64):
        logits = model(part, use_cache=False).logits[:, :-1]
        total += cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten(), reduction="sum").item()
    loss = total / (len(rows) * (window - 1))
    perplexity = round(math.exp(loss), 4)
    return {"loss": round(loss, 5), "perplexity": perplexity, "windows": len(rows)}


def save(model: LlamaForCausalLM, tokenizer: Tokenizer, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    # It repeats config.json.
    (out / "generation_config.json").unlink(missing_ok=True)
    (out / "model.safetensors").chmod(0o644)
    tokenizer.save(str(out / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": EOS,
        "eos_token": EOS,
        "clean_up_tokenization_spaces": False,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--steps", type=int, default=TinyRecipe.steps)
    width = TinyRecipe.hidden_size
    parser.add_argument("--hidden", type=int, default=width, help="width, in heads of 32")
    parser.add_argument("--lr", type=float, help="instead of trials")
    args = parser.parse_args()
    recipe = TinyRecipe(
        steps=args.steps,
        hidden_size=args.hidden,
        intermediate_size=args.hidden * TinyRecipe.intermediate_size // width,
        heads=args.hidden // 32,
        lr=args.lr,
    )
    torch.set_num_threads(recipe.threads)
    torch.use_deterministic_algorithms(True)
    began = time.perf_counter()

    texts = {split: [a.text for a in wikimini.articles(split)] for split in wikimini.SPLITS}
    tokenizer = train_tokenizer(texts["train"], recipe.vocab_size)
    ids = {split: stream(tokenizer, docs) for split, docs in texts.items()}
    print({split: f"{len(t):,} tokens" for split, t in ids.items()}, flush=True)

    trials: dict[float, dict[str, float]] = {}
    for lr in recipe.trial_lrs if recipe.lr is None else ():
        model, _ = train(replace(recipe, steps=recipe.trial_steps), lr, ids["train"])
        trials[lr] = evaluate(model, ids["validation"], recipe.window)
        print(f"trial lr {lr:g}: {trials[lr]}", flush=True)
    if trials:
        recipe = replace(recipe, lr=min(trials, key=lambda lr: trials[lr]["loss"]))
    assert recipe.lr is not None

    start = time.perf_counter()
    model, curve = train(recipe, recipe.lr, ids["train"])
    train_s = time.perf_counter() - start
    diary: dict[str, Any] = {
        "recipe": asdict(recipe),
        "parameters": sum(p.numel() for p in model.parameters()),
        "window_tokens": recipe.window,
        "data": {
            "name": "wiki-mini",
            "license": "CC BY-SA 3.0",
            "version": wikimini.VERSION,
            "sha256": wikimini.SHA256,
            "documents": {s: len(docs) for s, docs in texts.items()},
            "characters": {s: sum(map(len, docs)) for s, docs in texts.items()},
            "tokens": {s: len(t) for s, t in ids.items()},
        },
        "trials": {f"{lr:g}": figures for lr, figures in trials.items()},
        "train_loss": curve,
        "validation": evaluate(model, ids["validation"], recipe.window),
        "test": evaluate(model, ids["test"], recipe.window),
        "train_wall_s": round(train_s, 1),
        "wall_s": round(time.perf_counter() - began, 1),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "transformers", "tokenizers", "safetensors")},
    }
    save(model, tokenizer, args.out)
    weights = (args.out / "model.safetensors").read_bytes()
    diary["weights_sha256"] = hashlib.sha256(weights).hexdigest()
    (args.out / "TRAINING.json").write_text(json.dumps(diary, indent=2) + "\n")
    print(f"validation {diary['validation']}  test {diary['test']}  {diary['wall_s']:.0f} s")


if __name__ == "__main__":
    main()
