"""Greedy answers of a batch by eager code and by a step compiled for its shape, in turn.

The prompts are random tokens of one length, because the compiled step has no mask for padding. In
bfloat16, one thread, CPU time. Beside the times: the seconds of compiling, which each batch and
length takes, and how many answers the other rounding changes.

python benchmarks/compiled_answers.py [--rounds 3]
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from harness import MODEL, Figures, finish, fresh_cache, in_turn, like_a_worker, ratio, start
from torch import Tensor

from bench.inputs import download, loading
from bench.measures import generation
from bench.parts.speed.captured import Decoder
from methods.contract.method import Compute

PROMPTS, LENGTH, TOKENS = generation.BATCH, 128, 32
"""Prompts of a batch, their tokens, and the tokens of an answer."""


def compiled_answers(decoder: Decoder, ids: Tensor) -> list[list[int]]:
    """Return the answers to prompts, [prompts, tokens], of TOKENS tokens."""
    logits, out = decoder.prefill(ids), []
    for position in range(LENGTH, LENGTH + TOKENS):
        out.append(logits[:, -1:].argmax(-1))
        if len(out) < TOKENS:
            logits = decoder.step(out[-1], position)
    answers: list[list[int]] = torch.cat(out, 1).tolist()
    return answers


@torch.no_grad()
def answer_in_turn(model: Any, rounds: int) -> Figures:
    """Return the figures of a model."""
    model.generation_config.eos_token_id = None
    ids = torch.randint(0, 1000, (PROMPTS, LENGTH), generator=torch.Generator().manual_seed(0))
    decoder = Decoder(model, LENGTH + TOKENS)
    contestants: dict[str, Callable[[], list[list[int]]]] = {
        "eager": lambda: generation.answer(model, ids.tolist(), TOKENS, "cpu"),
        "compiled": lambda: compiled_answers(decoder, ids),
    }
    answers = {name: work() for name, work in contestants.items()}
    times = in_turn(contestants, rounds, time.process_time)
    pairs = list(zip(*answers.values(), strict=True))
    return {
        "prompts": PROMPTS,
        "tokens of a prompt": LENGTH,
        "tokens of an answer": TOKENS,
        "compiling, seconds": round(decoder.compile_s),
        "eager / compiled": ratio(times, "eager", "compiled"),
        "equal answers": sum(eager == other for eager, other in pairs),
    }


def main(rounds: int = 3) -> None:
    like_a_worker()
    torch.set_num_threads(1)
    model = loading.load(download.pull(MODEL).folder, Compute(dtype=torch.bfloat16))
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(fresh_cache(Path(folder)))  # it has no compiled step
        figures = answer_in_turn(model, rounds)
    finish("compiled_answers", {MODEL: figures})


if __name__ == "__main__":
    start(main)
