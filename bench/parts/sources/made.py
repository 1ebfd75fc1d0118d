"""Text that needs no corpus: answers of the model itself, and random tokens."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.inputs import corpora
from bench.inputs.corpora import Document, Maker, TextSource
from bench.system import digests
from bench.system.source_digest import digest_source
from methods.model.folder import Folder

PROMPTS = 128
"""Number of prompts."""
ANSWER = 256
"""Largest number of tokens in an answer."""
ASK = "Explain this in your own words:\n\n"
"""Start of a user's message. A model without a chat template continues the paragraph alone."""
PARAGRAPH = range(200, 600)
"""Characters of a paragraph that becomes a prompt."""
TOGETHER = 8
"""Answers that are one document, so that it is longer than a sequence."""
RANDOM_TOKENS = 2**18
"""Number of random tokens."""


@dataclass(frozen=True)
class OwnAnswers(TextSource):
    """Greedy answers of the dense model, each after its prompt. They stay in the cache."""

    prompts: str = "wiki"
    """Corpus whose paragraphs are the prompts."""

    @property
    def uses(self) -> tuple[str, ...]:
        return ("calibration",)

    def digest(self, data_dir: Path | None) -> str:
        return digests.of(
            [
                corpora.digest(self.prompts, "calibration", data_dir, fetch=False),
                digest_source(__name__),
            ]
        )

    def documents(self, use: str, data_dir: Path | None, maker: Maker | None) -> Sequence[Document]:
        from bench.measures import generation  # imports torch

        assert maker is not None
        positions = Folder(maker.folder).config.get("max_position_embeddings") or 2 * ANSWER
        longest = min(ANSWER, positions // 2)
        texts = self._paragraphs(data_dir)
        is_chat = bool(getattr(maker.tokenizer, "chat_template", None))
        if is_chat:
            texts = [ASK + text for text in texts]
        prompts = generation.encode(maker.tokenizer, generation.as_user(texts), maker.bos, is_chat)
        prompts = [prompt[longest - positions :] for prompt in prompts]
        answers = generation.cached_answers(
            maker.load, maker.folder, maker.compute, prompts, longest
        )
        out: list[list[int]] = []
        for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            if i % TOGETHER == 0:
                out.append([])
            out[-1] += prompt + answer
        return out

    def _paragraphs(self, data_dir: Path | None) -> list[str]:
        """Return PROMPTS paragraphs at even distances in the corpus."""
        texts: list[str] = []
        for document in corpora.documents(self.prompts, "calibration", data_dir):
            texts += [one for one in document.split("\n") if len(one) in PARAGRAPH]
        return [texts[i * len(texts) // PROMPTS] for i in range(PROMPTS)]


@dataclass(frozen=True)
class RandomTokens(TextSource):
    """One document of uniformly random tokens, without special tokens."""

    @property
    def uses(self) -> tuple[str, ...]:
        return ("calibration",)

    def digest(self, data_dir: Path | None) -> str:
        return digest_source(__name__)

    def documents(self, use: str, data_dir: Path | None, maker: Maker | None) -> Sequence[Document]:
        assert maker is not None
        special = set(maker.tokenizer.all_special_ids)
        usual = [token for token in range(len(maker.tokenizer)) if token not in special]
        return [random.Random(0).choices(usual, k=RANDOM_TOKENS)]


CHAT = OwnAnswers(
    "the model's own greedy answers to paragraphs of wiki",
    licence="CC BY-SA 3.0 for the prompts",
    by_model=True,
)
RANDOM = RandomTokens("random tokens, as a control", licence="none", by_model=True)
