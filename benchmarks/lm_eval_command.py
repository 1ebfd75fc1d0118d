"""Answers of `bench run` against those of the `lm_eval` command, question by question.

The tasks are YAML files as a user writes them, on questions of wiki-mini. One has examples before
each question, one uses the chat template, and one generates text. The model is
smollm2-135m-instruct-q4 in float32.

python benchmarks/lm_eval_command.py [--questions 100] [--cases NAME,NAME]
"""

from __future__ import annotations

import json
import sys
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness import MODEL, Figures, call, finish, like_a_worker, split, start

from bench.inputs import download, wikimini
from bench.results.store import ReadOnlyStore

LIMIT, BATCH = 100, 16
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
HEAD = """task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
fewshot_split: test
metadata: {{version: 1.0}}
"""
CHOICES = """output_type: multiple_choice
doc_to_text: "{{context}}"
doc_to_choice: "{{choices}}"
doc_to_target: label
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
GENERATED = """output_type: generate_until
doc_to_text: "{{context}}"
doc_to_target: word
generation_kwargs: {until: ["\\n", "."], max_gen_toks: 8, do_sample: false}
process_results: !function marks.mark
metric_list:
  - {metric: first_word, aggregation: mean, higher_is_better: true}
  - {metric: text, aggregation: mean, higher_is_better: true}
"""
MARKS = '''"""Marks of a generated text: is its first word right, and a number for the whole text.

So two runs can be compared.
"""
import zlib


def mark(doc, results):
    (text,) = results
    first_word = float(text.split()[:1] == [doc["word"]])
    return {"first_word": first_word, "text": float(zlib.crc32(text.encode()))}
'''


class Case(NamedTuple):
    name: str
    body: str
    data: str
    ours: Sequence[str] = ()
    """Settings of `bench run`."""
    theirs: Sequence[str] = ()
    """Flags of `lm_eval`."""


CHAT = ("--apply_chat_template",)
CASES = (
    Case("few_shot", CHOICES, "wiki_continuation", ("num_fewshot=2",), ("--num_fewshot", "2")),
    Case("chat", CHOICES, "wiki_continuation", ("apply_chat_template=true",), CHAT),
    Case("generated", GENERATED, "wiki_lastword"),
)


def ours(case: Case, model: Path, folder: Path, limit: int) -> dict[str, Mapping[str, float]]:
    """Return the recorded values of each question, by the digest of its document."""
    results = folder / "results"
    settings = (f"limit={limit}", f"batch={BATCH}", *case.ours)
    words = "run --methods dense --quant none --measures zeroshot --dtype float32 --device cpu"
    words += " --set threads=1" + "".join(f" --set zeroshot.{setting}" for setting in settings)
    files = ("--model", model, "--tasks", folder / f"{case.name}.yaml", "--results", results)
    call("bench", words, *files, environment=ENVIRONMENT)
    store = ReadOnlyStore(results)
    (record,) = (r for r in store if r.identity.measure == "zeroshot")
    items, columns = store.items(record), {}
    for name, values in items.columns.items():
        columns[record.readings[0].metric if name == "value" else name] = values.tolist()
    found: dict[str, Mapping[str, float]] = {}
    for i, one in enumerate(items.ids.tolist()):
        found[one] = {name: values[i] for name, values in columns.items()}
    return found


def theirs(case: Case, model: Path, folder: Path, limit: int) -> list[dict[str, Any]]:
    """Return what `lm_eval --log_samples` writes of each question."""
    words = f"run --model hf --device cpu --tasks {case.name} --log_samples"
    words += f" --limit {limit} --batch_size {BATCH}"
    places = ("--include_path", folder, "--output_path", folder / "lm_eval")
    dense = f"pretrained={model},dtype=float32"
    call("lm_eval", words, "--model_args", dense, *places, *case.theirs, environment=ENVIRONMENT)
    (file,) = folder.glob(f"lm_eval/**/samples_{case.name}_*.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def compare(case: Case, model: Path, limit: int) -> Figures:
    """Return how many questions `bench run` and `lm_eval` judge otherwise."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        head = HEAD.format(name=case.name, data=wikimini.FOLDER / f"{case.data}.jsonl")
        (folder / f"{case.name}.yaml").write_text(head + case.body)
        (folder / "marks.py").write_text(MARKS)
        samples, recorded = theirs(case, model, folder, limit), ours(case, model, folder, limit)
    metric, *others = samples[0]["metrics"]
    right = sum(int(s[metric]) for s in samples)
    figures: Figures = {"questions": len(samples), "right": right}
    if case.body is GENERATED:
        texts = [s["resps"][0][0] for s in samples]
        figures["different texts"] = len(set(texts))
        if any(zlib.crc32(t.encode()) != s["text"] for t, s in zip(texts, samples, strict=True)):
            sys.exit("the number of a text is not that of the text in lm_eval's file")
    for one in (metric, *others):
        other = [s for s in samples if recorded[s["doc_hash"]][one] != s[one]]
        figures[f"questions with another {one}"] = len(other)
    return figures


EVERY = ",".join(case.name for case in CASES)


def main(questions: int = LIMIT, cases: str = EVERY) -> None:
    like_a_worker()
    model, known = download.pull(MODEL).folder, {case.name: case for case in CASES}
    figures = {}
    for name in split(cases, known):
        figures[name.replace("_", " ")] = compare(known[name], model, questions)
    finish("lm_eval_command", figures)


if __name__ == "__main__":
    start(main)
