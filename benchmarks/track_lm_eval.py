"""Accuracy of a track's task against lm-eval's with the same prompt: RTE on a dense model.

lm-eval makes the prompts and the metric, and encodes prompt and answer together. The questions are
in the cache (bench pull --from index rte, and bench pull language).

python benchmarks/track_lm_eval.py [--questions 100]
"""

from __future__ import annotations

from functools import partial

import torch
from harness import MODEL, finish, like_a_worker, start
from track_agreement import CAPACITY, marks

from bench.inputs import download, hub, lmeval, loading, tasks, tracks
from bench.inputs.task_yaml import read_task
from bench.measures import packed_scoring
from methods.contract.method import Compute, NoProgress


def main(questions: int = 100) -> None:
    like_a_worker()
    torch.set_num_threads(1)
    folder = download.pull(MODEL).folder
    model, tokenizer = loading.load(folder, Compute()), loading.load_tokenizer(folder)
    task = read_task("rte", tasks.TASK_FILES["rte"])
    scorer = partial(packed_scoring.score, model, capacity=CAPACITY)
    data = tasks.data_folder(task, hub.mirror(None))
    limits = (16, questions, NoProgress())
    theirs = lmeval.evaluate(model, tokenizer, task, data, *limits, scorer).samples
    before, every = tracks.read("language/rte", None, None)
    asked = [q for q in every if int(q.id) < len(theirs)]
    found = marks(model, tokenizer, before, asked)
    ours = {int(q.id): mark.beside["acc_raw"] for q, mark in zip(asked, found, strict=True)}
    other = [sample.scores["acc"] for sample in theirs]
    figures = {
        "questions": len(ours),
        "accuracy, the track": round(sum(ours.values()) / len(ours), 4),
        "accuracy, lm-eval": round(sum(other) / len(other), 4),
        "questions judged otherwise": sum(ours[i] != score for i, score in enumerate(other)),
    }
    finish("track_lm_eval", {"rte": figures})


if __name__ == "__main__":
    start(main)
