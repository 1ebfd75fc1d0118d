"""Greedy answers of the dense model, and how another model follows them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.formats.checkpoint import content_digest
from bench.measures.contract import MeasureContext
from bench.measures.state_check import StateCheck
from bench.parts.fidelity.distances import DistanceReader, clamped
from bench.parts.fidelity.tally import DISTANCES, buckets_of_positions
from bench.system import digests, provenance
from bench.system.cache import cache_dir
from bench.system.files import write_file
from bench.system.source_digest import digest_source
from methods.contract.errors import Skipped
from methods.contract.method import Compute
from methods.model.folder import dtype_name
from methods.model.logits import head_of

Ids = list[int]
"""Token ids of a prompt or an answer."""

BATCH = 16
"""Prompts in a forward pass."""


@dataclass(frozen=True)
class Followed:
    """How a model follows an answer."""

    kl: float
    """Mean KL(dense || model) over the answer's tokens, in nats."""
    tokens: int
    """Tokens of the answer."""
    beside: Mapping[str, float]
    """Tokens before the first other token, whether the answer stays whole, and KL by position."""


def along_own_answers(
    model: Callable[[], nn.Module], context: MeasureContext, prompts: Sequence[Ids], tokens: int
) -> list[Followed]:
    """Return how a model follows the dense model's greedy answers.

    prompts: cut on the left to the model's positions. tokens: largest number in an answer. Raise
    Skipped if the model has another vocabulary.
    """
    with torch.no_grad():
        # Beside the original's head, one model is in memory at a time.
        prompts, answers, head, states = _of_dense(context, prompts, tokens)
        loaded = model()
        check = StateCheck(loaded)
        own, reader = head_of(loaded), DistanceReader()
        out = []
        pairs = zip(answers, states, _states(loaded, prompts, answers, context), strict=True)
        for answer, before, after in pairs:
            logits = [side(state).float() for side, state in ((head, before), (own, after))]
            if logits[0].shape != logits[1].shape:
                raise Skipped(
                    f"KL needs one vocabulary, and the model has {logits[1].shape[-1]:,} logits "
                    f"where the original has {logits[0].shape[-1]:,}"
                )
            kl = clamped(reader.read(*logits))[:, DISTANCES.index("kl")]
            chosen = logits[1].argmax(-1).cpu() == torch.tensor(answer)
            out.append(_followed(kl.double().cpu(), chosen, tokens))
            context.progress.advance(len(out), len(answers))
        check.require_numbers("the model")
    return out


def _of_dense(
    context: MeasureContext, prompts: Sequence[Ids], tokens: int
) -> tuple[Sequence[Ids], list[Ids], nn.Module, list[Tensor]]:
    """Return the prompts as the dense model sees them, its answers, its head, and the states that
    predict each answer."""
    dense: Any = context.load_dense()
    check = StateCheck(dense)
    positions = getattr(dense.config, "max_position_embeddings", None)
    if positions and positions > tokens:
        prompts = [ids[-(positions - tokens) :] for ids in prompts]
    answers = cached_answers(lambda: dense, context.source, context.compute, prompts, tokens)
    states = list(_states(dense, prompts, answers, context))
    check.require_numbers("the dense model")
    return prompts, answers, head_of(dense), states


def _followed(kl: Tensor, same: Tensor, longest: int) -> Followed:
    """Return the numbers of an answer. kl: of each token; same: whether the model chooses it."""
    until = int(same.int().cumprod(0).sum())
    beside = {"first_divergence": float(until), "whole_answers": float(until == len(same))}
    for label, first, last in buckets_of_positions(longest + 1):
        part = kl[first - 1 : last]
        beside |= {f"{label}: kl": float(part.sum()), f"{label}: tokens": float(len(part))}
    return Followed(float(kl.mean()), len(kl), beside)


def cached_answers(
    load: Callable[[], Any], source: Path, compute: Compute, prompts: Sequence[Ids], tokens: int
) -> list[Ids]:
    """Return the answer of a model to each prompt, from the cache if it was given before.

    load: loads the model in the folder `source`.
    """
    inputs = {
        "model": content_digest(source),
        "prompts": prompts,
        "tokens": tokens,
        "dtype": dtype_name(compute.dtype) if compute.dtype else "",
        "device": str(compute.device),
        "threads": torch.get_num_threads(),
        "code": digest_source(__name__),
        "versions": provenance.versions(),
        "machine": provenance.machine(),
    }
    file = cache_dir() / "tokens" / f"{digests.of(inputs)[:32]}.json"
    with contextlib.suppress(OSError, ValueError):
        known: list[Ids] = json.loads(file.read_bytes())
        if len(known) == len(prompts):
            return known
    with torch.no_grad():
        found = answer(load(), prompts, tokens, compute.device)
    file.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):  # the cache may be read-only
        write_file(file, json.dumps(found))
    return found


def answer(
    model: Any, prompts: Sequence[Ids], tokens: int, device: torch.device | str
) -> list[Ids]:
    """Return the greedy answer to each prompt, with its end of text, of at most `tokens` tokens."""
    usual = model.generation_config
    ends = usual.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends]) - {None}
    # A fresh config in place of the model's own, which may have penalties.
    model.generation_config = type(usual)(
        max_new_tokens=tokens, do_sample=False, eos_token_id=sorted(ends) or None, pad_token_id=0
    )
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    out: dict[int, Ids] = {}
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        ids, mask = _padded([prompts[i] for i in chosen], left=True)
        whole = model.generate(ids.to(device), attention_mask=mask.to(device))
        for i, row in zip(chosen, whole[:, ids.shape[1] :].tolist(), strict=True):
            stop = next((k + 1 for k, token in enumerate(row) if token in ends), len(row))
            out[i] = row[:stop]
    model.generation_config = usual
    return [out[i] for i in range(len(prompts))]


def _states(
    model: Any, prompts: Sequence[Ids], answers: Sequence[Ids], context: MeasureContext
) -> Iterator[Tensor]:
    """Yield the final states that predict the tokens of each answer, [tokens, hidden]."""
    for start in range(0, len(prompts), BATCH):
        part = slice(start, start + BATCH)
        texts = [p + a[:-1] for p, a in zip(prompts[part], answers[part], strict=True)]
        ids, _ = _padded(texts, left=False)
        # Padding is on the right, where no token of a text sees it.
        states = model.base_model(input_ids=ids.to(context.compute.device), use_cache=False)[0]
        for row, prompt, text in zip(states, prompts[part], texts, strict=True):
            yield row[len(prompt) - 1 : len(text)]


def _padded(texts: Sequence[Ids], *, left: bool) -> tuple[Tensor, Tensor]:
    """Return token ids and mask, int64 [texts, longest], with zeros on one side."""
    longest = max(map(len, texts))
    ids, mask = (torch.zeros(len(texts), longest, dtype=torch.int64) for _ in range(2))
    for i, text in enumerate(texts):
        place = slice(longest - len(text), longest) if left else slice(0, len(text))
        ids[i, place] = torch.tensor(text)
        mask[i, place] = 1
    return ids, mask
