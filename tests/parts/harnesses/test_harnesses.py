"""Folders of lighteval, EvalScope and Every Eval Ever, as their tools write them."""

import json
import os

import pandas
import pytest
import yaml

from bench.comparing.gate_settings import CompareSettings
from bench.comparing.verdict import compare
from bench.parts.harnesses import elsewhere
from bench.parts.harnesses.elsewhere import HarnessResults
from helpers.limits import limits
from methods.contract.errors import UserError

BEFORE, AFTER = (1, 1, 1, 1, 1, 0, 0, 1), (0, 0, 1, 1, 1, 1, 0, 1)
DATE = "2026-01-01T00-00-00.0"
UUID = "1ee37d29-346d-4f94-a614-46ce209cdc0c"


def write(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = content if isinstance(content, list) else [content]
    file.write_text("\n".join(json.dumps(line) for line in lines) + "\n")


def lighteval(path, right, asked="Question"):
    about = {"config_general": {"model_name": "/home/me/models/mine", "lighteval_sha": "abc"},
             "versions": {"mini|0": 0}, "results": {"mini|0": {"acc": 0.5}}}  # fmt: skip
    write(path / f"results/mine/results_{DATE}.json", about)
    question = {"instruction": None, "gold_index": 0, "choices": ["a", "b"]}
    rows = [
        {"doc": {"query": f"{asked} {i}"} | question, "metric": {"acc": float(x)}}
        for i, x in enumerate(right)
    ]
    file = path / f"details/mine/{DATE}/details_mini|0_{DATE}.parquet"
    file.parent.mkdir(parents=True)
    pandas.DataFrame(rows).to_parquet(file)
    return file


def evalscope(path, right, asked="Question"):
    metric = {
        "identity": {"name": "acc", "aggregation": "mean"},
        "categories": [{"name": ["default"], "subsets": [{"name": "s", "is_aggregate": False}]}],
        "semantics": {"direction": "higher_is_better"},
    }
    about = {"dataset_name": "mini", "model_name": "mine", "metrics": [metric]}
    write(path / "reports/mine/mini.json", about)
    rows = []
    for i, x in enumerate(right):
        texts = {"user": f"{asked} {i}", "assistant": f"answer {x}"}
        messages = [{"role": role, "content": text} for role, text in texts.items()]
        score = {"score": {"value": {"acc": float(x)}}}
        rows.append({"index": i, "target": ["A"], "messages": messages, "sample_score": score})
    file = path / "reviews/mine/mini_s.jsonl"
    write(file, rows)
    run = {
        "evalscope_version": "1.14.1",
        "evaluation_identity": {"benchmarks": {"mini": {"evaluation_version": "v1.1"}}},
        "generation_config": {"max_tokens": 8},
        "resolved_benchmarks": {"mini": {"few_shot_num": 0}},
    }
    (path / "configs").mkdir()
    (path / "configs/task_config.yaml").write_text(yaml.safe_dump(run))
    return file


def every_eval_ever(path, right, asked="Question"):
    home = path / "mini/org/mine"
    result = {"evaluation_result_id": "acc", "evaluation_name": "mini",
              "metric_config": {"metric_name": "acc", "lower_is_better": False}}  # fmt: skip
    about = {"eval_library": {"name": "lm_eval", "version": "0.4.13"},
             "model_info": {"name": "org/mine"}, "evaluation_results": [result]}  # fmt: skip
    write(home / f"{UUID}.json", about)
    named, rows = {"evaluation_name": "mini", "evaluation_result_id": "acc"}, []
    for i, x in enumerate(right):
        question = {"raw": f"{asked} {i}", "reference": ["0"], "choices": ["a", "b"]}
        answer = {"score": float(x), "is_correct": bool(x)}
        rows.append(named | {"sample_id": str(i), "input": question, "evaluation": answer})
    file = home / f"{UUID}_samples.jsonl"
    write(file, rows)
    return file


WRITERS = {"lighteval": lighteval, "EvalScope": evalscope, "Every Eval Ever": every_eval_ever}
every_harness = pytest.mark.parametrize(("harness", "writer"), WRITERS.items(), ids=WRITERS)


@every_harness
def test_questions_are_paired_and_counted(harness, writer, tmp_path):
    a, b, other = tmp_path / "a", tmp_path / "b", tmp_path / "other"
    writer(a, BEFORE), writer(b, AFTER), writer(other, AFTER, asked="Another")

    before, after, notes = HarnessResults().pair(a, b)

    (row,) = compare(before, after, CompareSettings(), exploratory=True, every_metric=True).rows
    pairs = list(zip(BEFORE, AFTER, strict=True))
    lost, gained = sum(x > y for x, y in pairs), sum(x < y for x, y in pairs)
    found = row.estimate
    assert (found.lost, found.gained, found.n, notes) == (lost, gained, 8, ())
    (found,) = elsewhere.read(a).values()
    assert found.harness == harness and found.about["model"] == "mine"
    (note,) = HarnessResults().pair(a, other).notes
    assert "0 questions pair" in note and "8 only before" in note


@every_harness
def test_rows_of_a_leaderboard(harness, writer, tmp_path, cli, output):
    writer(tmp_path / "theirs", BEFORE)
    out = output("report", "--results", tmp_path / "theirs")
    assert "theirs" in out and f"in {harness}" in " ".join(out.split())
    output("import", tmp_path / "theirs", "--results", tmp_path / "r", "--method", "theirs")
    assert cli("check", tmp_path / "r")[0] == 0
    assert not any("/home/me" in f.read_text() for f in (tmp_path / "r/records").glob("*.json"))


@every_harness
def test_damaged_and_missing_answers_are_refused_in_a_sentence(harness, writer, tmp_path):
    answers = writer(tmp_path, BEFORE)
    answers.write_text("{")
    with pytest.raises(UserError, match=f"{harness}.*measure it again"):
        elsewhere.read(tmp_path)
    answers.unlink()
    with pytest.raises(UserError, match="no answers to single questions"):
        elsewhere.read(tmp_path)


def test_the_newest_run_is_not_the_last_name(tmp_path):
    home = tmp_path / "eee/mini/org/mine"
    for right, time, name in ((AFTER, "1790000000", "0" + UUID[1:]), (BEFORE, "1700000000", UUID)):
        every_eval_ever(tmp_path / "eee", right)
        about = json.loads((home / f"{UUID}.json").read_text()) | {"evaluation_timestamp": time}
        (home / f"{UUID}.json").unlink()
        (home / f"{UUID}_samples.jsonl").rename(home / f"{name}_samples.jsonl")
        write(home / f"{name}.json", about)
    for right, name in ((AFTER, "20260102_000000"), (BEFORE, "20260101_000000")):
        evalscope(tmp_path / "scope" / name, right)
    for folder, newest in (("undated", "a"), ("undated too", "b")):
        for name in ("a", "b"):
            evalscope(tmp_path / folder / name, AFTER if name == newest else BEFORE)
            seconds = 2e9 if name == newest else 1e9
            os.utime(tmp_path / folder / name / "reports/mine/mini.json", (seconds, seconds))

    for folder in ("eee", "scope", "undated", "undated too"):
        (found,) = elsewhere.read(tmp_path / folder).values()
        assert [scores["acc"] for scores in found.scores.values()] == list(AFTER)


def test_settings_of_evalscope_are_compared(tmp_path):
    evalscope(tmp_path / "a", BEFORE), evalscope(tmp_path / "b", BEFORE)
    file = tmp_path / "b/configs/task_config.yaml"
    file.write_text(file.read_text().replace("max_tokens: 8", "max_tokens: 16"))
    (note,) = HarnessResults().pair(tmp_path / "a", tmp_path / "b").notes
    assert note == "mini/s: generation_config {'max_tokens': 8} before and {'max_tokens': 16} after"
    file.write_text("!!python/object/apply:os.system ['true']")
    with pytest.raises(UserError, match=r"task_config\.yaml cannot be read"):
        elsewhere.read(tmp_path / "b")


def changed(file, *path, to):
    about = json.loads(file.read_text())
    inner = about
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = to
    file.write_text(json.dumps(about))


def nested(depth):
    return {"a": nested(depth - 1)} if depth else 0


SCOPE, EEE = "reports/mine/mini.json", f"mini/org/mine/{UUID}.json"
SETTINGS = ("evaluation_results", 0, "generation_config")
OTHER_TYPES = {
    "a metric": ("EvalScope", SCOPE, ("metrics",), [1]),
    "categories": ("EvalScope", SCOPE, ("metrics", 0, "categories"), None),
    "subsets": ("EvalScope", SCOPE, ("metrics", 0, "categories", 0, "subsets"), [3]),
    "no text as model": ("EvalScope", SCOPE, ("model_name",), "\ud800"),
    "a result": ("Every Eval Ever", EEE, ("evaluation_results",), [1]),
    "deep settings": ("Every Eval Ever", EEE, SETTINGS, nested(500)),
    "long settings": ("Every Eval Ever", EEE, SETTINGS, "x" * 2**21),
}


@pytest.mark.parametrize("case", OTHER_TYPES)
def test_results_of_other_types_and_sizes(case, tmp_path, refused):
    harness, file, path, value = OTHER_TYPES[case]
    WRITERS[harness](tmp_path / "in", BEFORE)
    changed(tmp_path / "in" / file, *path, to=value)
    err = refused("import", tmp_path / "in", "--model", "m", "--results", tmp_path / "r")
    assert f"{file} cannot be read as results of {harness} (" in err


def test_a_number_beyond_all_scores(tmp_path):
    answers = every_eval_ever(tmp_path, BEFORE)
    answers.write_text(answers.read_text().replace('"score": 1.0', f'"score": 1{"0" * 400}'))
    with pytest.raises(UserError, match=r"line 1 is no sample of Every Eval Ever \(a score beyond"):
        elsewhere.read(tmp_path)


NINE = [(i, ", ".join([f"*a{i - 1}"] * 9)) for i in range(1, 30)]
LAUGHS = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{nine}]\n" for i, nine in NINE)
PAIRS = LAUGHS.replace("[", "!!omap [k: ").replace(", ", ", k: ")
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{nine}]}}\n" for i, nine in NINE)


@pytest.mark.parametrize(
    "text", [LAUGHS, PAIRS, MERGES, "generation_config: &a [*a, *a]"], ids=lambda text: text[:30]
)
def test_settings_that_multiply(text, tmp_path):
    evalscope(tmp_path, BEFORE)
    (tmp_path / "configs/task_config.yaml").write_text(text)
    with limits(), pytest.raises(UserError, match=r"task_config\.yaml cannot be read"):
        elsewhere.read(tmp_path)


def test_an_alias_is_no_fault(tmp_path):
    evalscope(tmp_path, BEFORE)
    text = "a: &a {max_tokens: 8}\ngeneration_config: *a\n"
    (tmp_path / "configs/task_config.yaml").write_text(text)
    (found,) = elsewhere.read(tmp_path).values()
    assert found.settings["generation_config"] == {"max_tokens": 8}


@pytest.mark.parametrize("name", ["configs/task_config.yaml", "reports/mine/other.json"])
def test_a_pipe_of_evalscope(name, tmp_path):
    """It is no report, and holds no settings."""
    evalscope(tmp_path, BEFORE)
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    with limits():
        assert elsewhere.read(tmp_path)
