"""Zero-shot: `bench run` against the lm-eval command line, whole commands.

Both have the same tasks, data, dtype and threads.
tiny answers the tasks of this suite, smollm2-135m-instruct-q4 the first 500 questions of HellaSwag,
ARC-Easy and PIQA, with data from $BENCH_DATA_DIR or the cache. lm-eval's command against itself is
the noise.

python benchmarks/zeroshot.py [--rounds 3] [--tasks arc_easy,piqa] [--dtype bfloat16]
"""

from __future__ import annotations

import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

import yaml
from harness import MODEL, Figures, call, finish, in_turn, ratio, split, start

from bench.inputs import download, hub, lmeval, tasks
from bench.inputs.task_yaml import Task, read_task, tasks_root
from bench.results.store import ReadOnlyStore
from bench.system.devices import cores

REAL_TASKS = ("hellaswag", "arc_easy", "piqa")
TASKS = (*tasks.BUILTIN_TASKS, *REAL_TASKS)
KNOWN = (*tasks.BUILTIN_TASKS, *tasks.TASK_FILES)
LIMIT = 500
LM_EVAL_BATCH = 16
LOCAL_YAML = (
    "include: {file}\ntask: {name}_here\ntag: []\ndataset_path: {data}\ntraining_split: null\n"
)
"""lm-eval's own task, with its data from a folder."""


class Answers(NamedTuple):
    accuracy: float
    tokens: int | None
    """Number of requests that went through the model; None if it is not known."""


def model_of(task: str) -> str:
    return "tiny" if task in tasks.BUILTIN_TASKS else MODEL


def ours(task: str, dtype: str, folder: Path) -> Answers:
    words = f"run --model {model_of(task)} --methods dense --quant none --measures zeroshot"
    words += f" --tasks {task} --dtype {dtype} --device cpu --set zeroshot.limit={LIMIT}"
    call("bench", f"{words} --set threads={cores()}", "--results", folder / "r")
    (record,) = (r for r in ReadOnlyStore(folder / "r") if r.identity.measure == "zeroshot")
    accuracy = next(r.value for r in record.readings if r.metric == "acc")
    return Answers(accuracy or 0.0, record.cost["tokens"])


def theirs(task: str, dtype: str, folder: Path) -> Answers:
    model = download.pull(model_of(task)).folder
    name = write_task(task, folder / "tasks")
    words = f"run --model hf --device cpu --tasks {name} --limit {LIMIT}"
    words += f" --batch_size {LM_EVAL_BATCH} --model_args pretrained={model},dtype={dtype}"
    places = ("--include_path", folder / "tasks", "--output_path", folder / "lm-eval.json")
    call("lm_eval", words, *places, environment={"OMP_NUM_THREADS": str(cores())})
    (file,) = folder.glob("**/lm-eval*.json")
    return Answers(json.loads(file.read_text())["results"][name]["acc,none"], None)


def find(name: str) -> tuple[Task, Path]:
    """Return a task of lm-eval and the folder of its data, or exit if that is missing."""
    task = read_task(name, tasks.TASK_FILES[name])
    data = tasks.data_folder(task, hub.mirror(None))
    if data is None:
        sys.exit(f"the data of {name} is not here: name a folder that has it in ${hub.DATA_ENV}")
    return task, data


def write_task(name: str, folder: Path) -> str:
    """Write a task's YAML for lm-eval into a new folder. Returns the task's name there."""
    folder.mkdir()
    builtin = name in tasks.BUILTIN_TASKS
    if builtin:
        text = yaml.safe_dump(lmeval.read_config(read_task(name, "")))
    else:
        task, data = find(name)
        text = LOCAL_YAML.format(file=tasks_root() / task.file, name=name, data=data.resolve())
    (folder / f"{name}.yaml").write_text(text)
    return name if builtin else f"{name}_here"


def compare(task: str, dtype: str, rounds: int) -> Figures:
    """Run a task by both commands in turn."""
    answers: dict[str, Answers] = {}

    def go(name: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            answers[name] = (ours if name == "ours" else theirs)(task, dtype, Path(folder))

    commands = ("ours", "lm-eval", "lm-eval again")
    times = in_turn({name: partial(go, name) for name in commands}, rounds)
    accuracy = f"{answers['ours'].accuracy:.4g}, {answers['lm-eval'].accuracy:.4g}"
    return {
        f"{task} on {model_of(task)}: acc of ours, of lm-eval": accuracy,
        f"{task}: tokens through the model, ours": answers["ours"].tokens,
        f"{task}: lm-eval / ours, whole commands": ratio(times, "lm-eval", "ours"),
        f"{task}: lm-eval / lm-eval again, the noise": ratio(times, "lm-eval", "lm-eval again"),
    }


def main(rounds: int = 3, tasks: str = ",".join(TASKS), dtype: str = "float32") -> None:
    names = split(tasks, KNOWN)
    split(dtype, ("float32", "bfloat16"))
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            write_task(name, Path(folder) / "tasks")  # before hours are spent, is the data here?
    figures: Figures = {"questions at most": LIMIT, "threads": cores(), "dtype": dtype}
    for name in names:
        figures |= compare(name, dtype, rounds)
    finish("zeroshot", figures)


if __name__ == "__main__":
    start(main)
