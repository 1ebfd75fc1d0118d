"""lm-eval: its index, its tasks, and the evaluation of a loaded model. No other module imports
it."""

from __future__ import annotations

import copy
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from itertools import count, islice
from pathlib import Path
from statistics import fmean, stdev
from types import SimpleNamespace
from typing import Any, NamedTuple

from datasets.exceptions import DatasetsError
from lm_eval import evaluator
from lm_eval.defaults import DEFAULT_OTHER_SEED
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from lm_eval.utils import handle_non_serializable, hash_string, simple_parse_args_string
from torch import nn

from bench.inputs import data_sets, wikimini
from bench.inputs.own_text import fill_template
from bench.inputs.task_yaml import Task, tasks_root
from bench.system.cache import cache_dir
from methods.contract.errors import UserError, first_line
from methods.contract.method import Progress


class Sample(NamedTuple):
    """A question of a task."""

    hash: str
    """Hash of the document by lm-eval."""
    document: Mapping[str, Any]
    scores: dict[str, float]
    """Value of each metric that is a number for a single question. For perplexity, -ln p of the
    answer."""
    weight: float = 1.0
    """Number of bytes of a document whose bits are counted; otherwise 1."""


class TaskScore(NamedTuple):
    """A metric of a task."""

    metric: str
    value: float
    stderr: float | None
    higher: bool


class Scores(NamedTuple):
    """Result of a task."""

    scores: tuple[TaskScore, ...]
    samples: tuple[Sample, ...]
    left: tuple[str, ...]
    """Kinds of requests that the model class of lm-eval answered."""
    guesses: tuple[float, float] | None = None
    """Accuracy at random, and of the choice, by its position, that is right most often. None for a
    task without choices."""


class Prompt(NamedTuple):
    """Settings of lm-eval that change the questions or the answers."""

    num_fewshot: int | None = None
    apply_chat_template: bool = False
    system_instruction: str = ""
    gen_kwargs: str = ""


NO_CHANGE = Prompt()
"""Settings that leave a task as its file describes it."""

Scorer = Callable[[Sequence[tuple[list[int], list[int]]], int], Iterator[tuple[int, float, bool]]]
"""Function that scores pairs of context tokens and continuation tokens, given the context length of
the model.

It yields in any order: the index of a pair, ln p of the continuation, and whether each of its
tokens is the likeliest.
"""


@cache
def _index() -> TaskManager:
    return TaskManager()


def expand_group(name: str) -> dict[str, str]:
    """Return the tasks of a group with their YAML files. A task is a group of one. Empty for an
    unknown name."""
    entry = _index().task_index.get(name)
    if entry is None:
        return {}
    kind = entry.kind.name
    if kind == "PY_TASK":
        raise UserError(f"task {name!r} is a Python class of lm-eval: use a task in YAML")
    if kind == "TASK":
        return {name: str(Path(entry.yaml_path).relative_to(tasks_root()))}
    members = sorted(entry.tags) if kind == "TAG" else entry.cfg.get("task")
    members = [members] if isinstance(members, str) else members
    if not all(isinstance(m, str) for m in members):
        raise UserError(
            f"group {name!r} of lm-eval changes the settings of its tasks: give its tasks one by "
            "one"
        )
    return {leaf: file for m in members for leaf, file in expand_group(m).items()}


class _LoadedModel(HFLM):  # type: ignore[misc]
    """The model class of lm-eval with our progress display and, for log-likelihoods, a scorer."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        batch: int,
        progress: Progress,
        scorer: Scorer | None,
    ) -> None:
        super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch)
        self.left: set[str] = set()
        """Kinds of requests that the scorer does not answer."""
        self._progress, self._scorer = progress, scorer

    def _start(self, kind: str, requests: list[Any]) -> None:
        done = count(1)
        # lm-eval calls its cache hook after each request
        self.set_cache_hook(
            SimpleNamespace(
                add_partial=lambda *_: self._progress.advance(next(done), len(requests))
            )
        )
        if kind != "loglikelihood" or self._scorer is None:
            self.left.add(kind)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        return fill_template(
            partial(
                super().apply_chat_template,
                chat_history,
                add_generation_prompt=add_generation_prompt,
            )
        )

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> Any:
        self._start("loglikelihood", requests)
        return super().loglikelihood(requests, disable_tqdm=True)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> Any:
        self._start("loglikelihood_rolling", requests)
        return super().loglikelihood_rolling(requests, disable_tqdm=True)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> Any:
        self._start("generate_until", requests)
        return super().generate_until(requests, disable_tqdm=True)

    def _loglikelihood_tokens(
        self, requests: list[Any], disable_tqdm: bool = False, override_bs: Any = None
    ) -> Any:
        """Answer (texts, context tokens, continuation tokens). Only rolling requests pass
        override_bs."""
        if self._scorer is None or override_bs is not None:
            return super()._loglikelihood_tokens(
                requests, disable_tqdm=disable_tqdm, override_bs=override_bs
            )
        for (context, continuation), *tokens in requests:
            if not all(tokens) or len(tokens[1]) > self.max_length:
                raise UserError(
                    f"continuation {continuation[:40]!r} cannot be scored after "
                    f"{context[-40:]!r}: it has {len(tokens[1])} tokens after {len(tokens[0])}; "
                    f"both need at least one, and it may have at most {self.max_length}"
                )
        answers: list[Any] = [None] * len(requests)
        for number, *answer in self._scorer(
            [(context, tokens) for _, context, tokens in requests], self.max_length
        ):
            answers[number] = tuple(answer)
            self.cache_hook.add_partial("loglikelihood", requests[number][0], answers[number])
        return answers


def evaluate(
    model: nn.Module,
    tokenizer: Any,
    task: Task,
    data: Path | None,
    batch: int,
    limit: int | None,
    progress: Progress,
    scorer: Scorer | None = None,
    prompt: Prompt = NO_CHANGE,
) -> Scores:
    """Evaluate a loaded model on a task.

    This is `simple_evaluate` of lm-eval without its examination of the machine, which takes seconds
    and starts processes.

    Args:
        data: folder with the data set; None if the task names it.
        batch: number of requests in a forward pass of lm-eval.
        limit: number of questions, from the first; None for all.
        scorer: function that answers requests for log-likelihoods. lm-eval answers the others, and
            all without a scorer.

    Raises:
        UserError: the data cannot be read.
    """
    loaded = _load(task, data, prompt.num_fewshot)
    for one in loaded["tasks"].values():
        if prompt.num_fewshot is not None:
            one.set_config(key="num_fewshot", value=prompt.num_fewshot)
        elif one.get_config("num_fewshot") is None:
            one.set_config(key="num_fewshot", value=0)
        if prompt.gen_kwargs and one.get_config("output_type") == "generate_until":
            one.set_config(
                key="generation_kwargs", value=_parse_arguments(prompt.gen_kwargs), update=True
            )
        one.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
    # lm-eval may add a padding token.
    lm = _LoadedModel(model, copy.deepcopy(tokenizer), batch, progress, scorer)
    results = evaluator.evaluate(
        lm,
        loaded,
        limit=limit,
        bootstrap_iters=1000,
        system_instruction=prompt.system_instruction or None,
        apply_chat_template=prompt.apply_chat_template,
        fewshot_as_multiturn=prompt.apply_chat_template,
    )
    samples = tuple(_samples(results["samples"][task.name]))
    return Scores(
        tuple(
            _scores(results["results"][task.name], results["higher_is_better"][task.name], samples)
        ),
        samples,
        tuple(sorted(lm.left)),
        _guesses(loaded["tasks"][task.name], [sample.document for sample in samples]),
    )


def guesses(
    task: Task, data: Path | None, limit: int | None
) -> tuple[tuple[float, float] | None, list[str]]:
    """Return what guesses reach on a task, as in `Scores`, and the hash of each question. Arguments
    as in `evaluate`."""
    loaded = _load(task, data)["tasks"][task.name]
    documents = list(islice(loaded.eval_docs, limit))
    texts = (
        json.dumps(d, indent=2, default=handle_non_serializable, ensure_ascii=False)
        for d in documents
    )
    return _guesses(loaded, documents), [hash_string(text) for text in texts]


def _guesses(task: Any, documents: Sequence[Mapping[str, Any]]) -> tuple[float, float] | None:
    if task.OUTPUT_TYPE != "multiple_choice" or not documents:
        return None
    right: Counter[int] = Counter()
    chances = []
    for document in documents:
        choices = task.doc_to_choice(document)
        answer = task.doc_to_text(document) if task.multiple_input else task.doc_to_target(document)
        if isinstance(answer, str):
            answer = choices.index(answer) if answer in choices else None
        if not isinstance(answer, int):
            return None  # several answers are right, or none
        right[answer] += 1
        chances.append(1 / len(choices))
    return fmean(chances), right.most_common(1)[0][1] / len(documents)


def read_config(task: Task) -> dict[str, Any]:
    """Return a task's whole config. This suite's own tasks name the file of their questions."""
    if task.file:
        return dict(load_yaml(tasks_root() / task.file))
    questions = {"data_files": {"test": str(wikimini.FOLDER / f"{task.name}.jsonl")}}
    return dict(load_yaml(wikimini.FOLDER / f"{task.name}.yaml"), dataset_kwargs=questions)


def _parse_arguments(text: str) -> dict[str, Any]:
    """Read arguments of generation: "temperature=0,max_gen_toks=64". Raise UserError if a part has
    no value."""
    try:
        return dict(simple_parse_args_string(text))
    except (ValueError, IndexError) as fault:
        raise UserError(
            f"invalid zeroshot.gen_kwargs={text!r} ({fault}): write name=value, separated by commas"
        ) from None


def _load(task: Task, data: Path | None, shots: int | None = None) -> Any:
    """Load a task with its whole config. Only the place of its data set is replaced."""
    config = read_config(task)
    for structure in ("tag", "group", "task_list"):
        config.pop(structure, None)
    if data:
        folder, config["dataset_name"] = data_sets.location(data, task.config)
        config["dataset_path"] = str(folder)
    if not config.get("custom_dataset"):
        kwargs = config.get("dataset_kwargs") or {}
        config["dataset_kwargs"] = kwargs | {"cache_dir": str(cache_dir() / "datasets")}
    examples = config.get("num_fewshot") if shots is None else shots
    if not examples:
        config["training_split"] = None  # only few-shot examples need it, and a mirror may lack it
    try:
        return TaskManager(include_defaults=False).load([config])
    except (OSError, ValueError, KeyError, DatasetsError) as fault:
        why = first_line(fault.__cause__ or fault)
        if isinstance(fault, KeyError):
            why = f"there is no split {why}"
        raise UserError(
            f"the data of task {task.name} in {str(data or wikimini.FOLDER)!r} cannot be read: "
            f"{why}"
        ) from fault


def _name(metric: str, filter_: str) -> str:
    """Return the name of a metric of lm-eval under one of its filters."""
    # The measure `answers` has bits_per_byte as a mean over questions.
    name = "corpus_bits_per_byte" if metric == "bits_per_byte" else metric
    return name if filter_ == "none" else f"{name}_{filter_}"


def _scores(
    results: Mapping[str, Any], higher: Mapping[str, bool], samples: Sequence[Sample]
) -> list[TaskScore]:
    """Return the metrics of a task, those with a score for each question first."""
    found = []
    by_question = samples[0].scores if samples else {}
    for key, value in results.items():
        metric, comma, filter_ = key.partition(",")
        if comma and not metric.endswith("_stderr") and isinstance(value, int | float):
            name, stderr = _name(metric, filter_), results.get(f"{metric}_stderr,{filter_}")
            error = float(stderr) if isinstance(stderr, int | float) else None
            if name == "perplexity" and name in by_question:
                # The standard error of lm-eval comes from resamples.
                losses = [sample.scores[name] for sample in samples]
                error = stdev(losses) / len(losses) ** 0.5 * value if len(losses) > 1 else None
            found.append(TaskScore(name, float(value), error, bool(higher.get(metric, True))))
    return sorted(found, key=lambda score: score.metric not in by_question)


def _samples(rows: list[dict[str, Any]]) -> Iterator[Sample]:
    """Yield the scores of each question, in the order of the documents. Each filter of the task has
    a row for it."""
    questions: dict[int, Sample] = {}
    for row in rows:
        of_filter = {m: row[m] for m in row["metrics"]}
        scores = {
            m: float(value) for m, value in of_filter.items() if isinstance(value, int | float)
        }
        weight = 1.0
        if "perplexity" in scores:
            # lm-eval has the log-likelihood under this name.
            scores["perplexity"] *= -1
        elif bits := of_filter.get("bits_per_byte"):
            likelihood, weight = bits
            scores["bits_per_byte"] = -likelihood / math.log(2)
        named = {_name(m, row["filter"]): value for m, value in scores.items()}
        question = questions.setdefault(
            row["doc_id"], Sample(row["doc_hash"], row["doc"], {}, float(weight))
        )
        question.scores.update(named)
    yield from questions.values()
