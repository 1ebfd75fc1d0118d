"""Greedy answers of a model to prompts, and its hidden states along given answers."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.formats.checkpoint import content_digest
from bench.inputs.bos import Bos, first_tokens
from bench.measures.contract import MeasureContext
from bench.system import digests, provenance
from bench.system.cache import cache_dir
from bench.system.files import write_file
from bench.system.source_digest import digest_source
from methods.contract.method import Compute
from methods.model.folder import dtype_name

Ids = list[int]
"""Token ids of a prompt or an answer."""
Messages = Sequence[Mapping[str, str]]
"""Messages of a chat, each with a role and a content."""

BATCH = 16
"""Largest number of prompts in a forward pass."""
BATCH_TOKENS = 2**14
"""Largest number of tokens in a forward pass with padding, unless one prompt alone is longer."""


def as_user(texts: Sequence[str]) -> list[Messages]:
    """Return each text as the only message of a user."""
    return [[{"role": "user", "content": text}] for text in texts]


def encode(tokenizer: Any, prompts: Sequence[Messages], bos: Bos, chat: bool) -> list[Ids]:
    """Return the token ids of each prompt. chat: whether to use the tokenizer's chat template, else
    the contents are joined by empty lines."""
    start = [] if chat else first_tokens(tokenizer, bos)
    texts = []
    for messages in prompts:
        if chat:
            text = tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=True, tokenize=False
            )
        else:
            text = "\n\n".join(message["content"] for message in messages)
        texts.append(text)
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return [[*start, *one] for one in ids]


def fit(prompts: Sequence[Ids], model: Any, tokens: int) -> list[Ids]:
    """Cut prompts on the left, so that each leaves `tokens` of the model's positions."""
    positions = getattr(model.config, "max_position_embeddings", None)
    if not positions or positions <= tokens:
        return list(prompts)
    return [ids[-(positions - tokens) :] for ids in prompts]


def answer(
    model: Any,
    prompts: Sequence[Ids],
    tokens: int,
    device: torch.device | str,
    advance: Callable[[int, int], object] = lambda done, total: None,
) -> list[Ids]:
    """Return the greedy answer to each prompt, with its end of text, of at most `tokens` tokens.

    advance: takes the number of answers so far, and of all.
    """
    usual, ends = model.generation_config, ends_of(model)
    # A fresh config in place of the model's own, which may have penalties.
    model.generation_config = type(usual)(
        max_new_tokens=tokens, do_sample=False, eos_token_id=sorted(ends) or None, pad_token_id=0
    )
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    out: dict[int, Ids] = {}
    for chosen in _batches(order, [len(prompt) + tokens for prompt in prompts]):
        ids, mask = _padded([prompts[i] for i in chosen], left=True)
        whole = model.generate(ids.to(device), attention_mask=mask.to(device))
        for i, row in zip(chosen, whole[:, ids.shape[1] :].tolist(), strict=True):
            stop = next((k + 1 for k, token in enumerate(row) if token in ends), len(row))
            out[i] = row[:stop]
        advance(len(out), len(order))
    model.generation_config = usual
    return [out[i] for i in range(len(prompts))]


def ends_of(model: Any) -> set[int]:
    """Return the tokens that end a text."""
    ends = model.generation_config.eos_token_id
    return set(ends if isinstance(ends, list) else [ends]) - {None}


def decode(tokenizer: Any, answers: Sequence[Ids]) -> list[str]:
    """Return the text of each answer, without its end of text."""
    return [str(tokenizer.decode(ids, skip_special_tokens=True)) for ids in answers]


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


def original_answers(
    context: MeasureContext, prompts: Sequence[Ids], tokens: int
) -> tuple[list[Ids], list[Ids]]:
    """Return the prompts as the dense model sees them, and its answers. The model is freed."""
    dense = context.load_dense()
    fitted = fit(prompts, dense, tokens)
    return fitted, cached_answers(lambda: dense, context.source, context.compute, fitted, tokens)


def states_along(
    model: Any, prompts: Sequence[Ids], answers: Sequence[Ids], device: torch.device | str
) -> Iterator[Tensor]:
    """Yield the final states that predict the tokens of each answer, [tokens, hidden]."""
    texts = [p + a[:-1] for p, a in zip(prompts, answers, strict=True)]
    for chosen in _batches(range(len(texts)), [len(text) for text in texts]):
        ids, _ = _padded([texts[i] for i in chosen], left=False)
        # Padding is on the right, where no token of a text sees it.
        states = model.base_model(input_ids=ids.to(device), use_cache=False)[0]
        for row, i in zip(states, chosen, strict=True):
            yield row[len(prompts[i]) - 1 : len(texts[i])]


def _batches(order: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield batches of numbers in an order. lengths: tokens of each in a forward pass."""
    batch: list[int] = []
    longest = 0
    for number in order:
        longest = max(longest, lengths[number])
        if batch and (len(batch) == BATCH or longest * (len(batch) + 1) > BATCH_TOKENS):
            yield batch
            batch, longest = [], lengths[number]
        batch.append(number)
    if batch:
        yield batch


def _padded(texts: Sequence[Ids], *, left: bool) -> tuple[Tensor, Tensor]:
    """Return token ids and mask, int64 [texts, longest], with zeros on one side."""
    longest = max(map(len, texts))
    ids, mask = (torch.zeros(len(texts), longest, dtype=torch.int64) for _ in range(2))
    for i, text in enumerate(texts):
        place = slice(longest - len(text), longest) if left else slice(0, len(text))
        ids[i, place] = torch.tensor(text)
        mask[i, place] = 1
    return ids, mask
