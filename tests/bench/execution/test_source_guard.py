"""Code and texts that change between the plan of a run and the start of a worker fail the
artifact."""

import json

import pytest

from bench import api
from bench.execution.source_guard import require_planned
from bench.verify import CheckFailed
from helpers import plugins, runs


@pytest.fixture
def plan(tmp_path, monkeypatch, cache):
    folder = plugins.install(tmp_path / "author", "author", {"mine": "pass"})
    runs.put_on_path(folder, monkeypatch)
    text = tmp_path / "own.txt"
    text.write_text("one two three four five six seven eight nine ten\n" * 100)
    calibration = {"data": str(text), "sequences": 2, "seqlen": 16}
    spec = runs.small(
        tmp_path / "r", methods=("mine", "wanda"), measures=("size",), calibration=calibration
    )
    return {m.artifact.method: [m] for m in api.plan(spec).measurements}


def test_a_plug_in_that_was_edited_is_not_recorded_under_the_old_key(plan, tmp_path):
    file = tmp_path / "author" / "author.py"
    file.write_text(file.read_text() + "\nRULE = 2\n")
    with pytest.raises(CheckFailed, match="the code of mine changed since this run began"):
        require_planned(plan["mine"][0].artifact)
    require_planned(plan["wanda"][0].artifact)


def test_a_text_that_perplexity_reads(plan, tmp_path):
    file = tmp_path / "read.txt"
    file.write_text("one two three four\n" * 500)
    settings = {"data": str(file), "seqlen": 16, "windows": 1}
    spec = runs.small(
        tmp_path / "r", methods=("dense",), measures=("perplexity",), perplexity=settings
    )
    measurements = [m for m in api.plan(spec).measurements if m.measure == "perplexity"]
    require_planned(measurements[0].artifact, measurements)

    file.write_text("another text\n" * 500)
    with pytest.raises(CheckFailed, match=r"text .*read\.txt changed since this run began"):
        require_planned(measurements[0].artifact, measurements)


def test_the_questions_of_a_task_of_the_user(tmp_path, cache):
    rows, task = tmp_path / "rows.jsonl", tmp_path / "mine.yaml"
    rows.write_text('{"question": "a word", "choices": ["yes", "no"], "label": 0}\n' * 20)
    about = {"task": "mine", "dataset_path": "json", "test_split": "test"}
    about |= {"dataset_kwargs": {"data_files": {"test": str(rows)}}}
    about |= {"output_type": "multiple_choice", "doc_to_text": "question"}
    about |= {"doc_to_choice": "choices", "doc_to_target": "label"}
    task.write_text(json.dumps(about))
    asked = {"methods": ("dense",), "measures": ("zeroshot",), "tasks": (str(task),)}
    spec = runs.small(tmp_path / "r", **asked)
    measurements = [m for m in api.plan(spec).measurements if m.measure == "zeroshot"]
    require_planned(measurements[0].artifact, measurements)

    rows.write_text(rows.read_text().replace("a word", "another word"))
    with pytest.raises(CheckFailed, match="task mine changed since this run began"):
        require_planned(measurements[0].artifact, measurements)
