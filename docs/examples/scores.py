"""A harness: the answers of another program, question by question."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from bench.parts.harnesses.evaluation import Evaluation, Harness, Question


class Scores(Harness):
    """Folders with files TASK.scores.json, each {question: score}."""

    title: ClassVar[str] = "scores"
    how: ClassVar[str] = "its option --scores"

    def find(self, folder: Path) -> list[Path]:
        return sorted(folder.glob("*.scores.json"))

    def read(self, file: Path) -> Iterator[Evaluation]:
        task = file.name.removesuffix(".scores.json")
        found = Evaluation(task, "1", {}, {"score": True}, harness=self.title)
        found.made = file.stat().st_mtime
        for text, score in json.loads(file.read_text(encoding="utf-8")).items():
            found.add(Question(text, text, ""), "", {"score": score})
        yield found
