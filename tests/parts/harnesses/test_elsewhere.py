"""Folders of lm-eval: questions are paired by content, and what cannot be paired is said."""

import json
import os

import pytest

from bench.compare.settings import CompareSettings
from bench.compare.verdict import compare
from bench.parts.harnesses import elsewhere
from bench.parts.harnesses.elsewhere import HarnessResults
from bench.results.check import check_folder
from bench.stats.mcnemar import mcnemar_p, tango_interval
from helpers import fake_records
from helpers.limits import limits
from methods.contract.errors import UserError

RIGHT_BEFORE = (1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1)
RIGHT_AFTER = (1, 1, 0, 0, 0, 0, 0, 0, 1, 0, 1, 1)


def sample(number, right, prompt="p", **fields):
    """A line as lm-eval 0.4 writes it."""
    return {
        "doc_id": number, "doc": {"question": f"q{number}"}, "filter": "none",
        "metrics": ["acc", "acc_norm"], "doc_hash": f"d{number}",
        "prompt_hash": f"{prompt}{number}", "target_hash": "t", "acc": float(right),
        "acc_norm": float(right),
    } | fields  # fmt: skip


def folder(path, rows, task="piqa", stamp="2026-01-01T00-00-00.0", **about):
    home = path / "some__model"
    home.mkdir(parents=True, exist_ok=True)
    results = {
        "results": {task: {"acc,none": 0.5}},
        "versions": {task: 1.0},
        "n-shot": {task: 0},
        "higher_is_better": {task: {"acc": True, "acc_norm": True}},
    }
    (home / f"results_{stamp}.json").write_text(json.dumps(results | about))
    lines = [json.dumps(row) for row in rows]
    (home / f"samples_{task}_{stamp}.jsonl").write_text("\n".join(lines) + "\n")
    return path


def answers(path, right, **fields):
    """One line for each question, in any order."""
    return folder(path, [sample(i, x, **fields) for i, x in reversed(list(enumerate(right)))])


def test_the_counts_are_those_of_a_few_lines(tmp_path, output):
    a, b = answers(tmp_path / "a", RIGHT_BEFORE), answers(tmp_path / "b", RIGHT_AFTER)

    out = output("compare", str(a), str(b), "--json")
    rows = {row["metric"]: row for row in json.loads(out)["rows"]}
    lost = sum(x > y for x, y in zip(RIGHT_BEFORE, RIGHT_AFTER, strict=True))
    gained = sum(x < y for x, y in zip(RIGHT_BEFORE, RIGHT_AFTER, strict=True))
    assert set(rows) == {"acc", "acc_norm"}
    assert rows["acc"]["before"] == pytest.approx(sum(RIGHT_BEFORE) / 12)
    before, after, _ = HarnessResults().pair(a, b)
    (row, _) = compare(before, after, CompareSettings(), exploratory=True, every_metric=True).rows
    assert (row.estimate.lost, row.estimate.gained, row.estimate.n) == (lost, gained, 12)
    assert row.estimate.p == mcnemar_p(lost, gained)
    assert (row.estimate.low, row.estimate.high) == tango_interval(
        lost, gained, 12, CompareSettings().alpha
    )


def test_only_questions_of_both_with_one_prompt_are_paired(tmp_path):
    a = answers(tmp_path / "a", RIGHT_BEFORE)
    rows = [sample(i, x) for i, x in enumerate(RIGHT_AFTER[:8])]
    rows[0]["prompt_hash"] = "other"
    b = folder(tmp_path / "b", [*rows, sample(50, 1), sample(51, 0)])

    before, after, notes = HarnessResults().pair(a, b)

    assert notes == (
        "piqa: 7 questions pair; 1 have another prompt or answer; 4 only before; 2 only after",
    )
    (was,), (now,) = before.records, after.records
    assert was.readings[0].n == now.readings[0].n == 7
    assert was.readings[0].value == pytest.approx(sum(RIGHT_BEFORE[1:8]) / 7)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompt": "another"}, "0 questions pair; 12 have another prompt or answer"),
        ({"versions": {"piqa": 2.0}}, "different protocol: piqa@1.0, now piqa@2.0"),
        ({"n-shot": {"piqa": 5}, "prompt": "shots"}, "shots 0 before and 5 after"),
    ],
)
def test_what_cannot_be_paired_is_said_for_the_task(change, said, tmp_path, cli):
    prompt = {"prompt": change.pop("prompt")} if "prompt" in change else {}
    a = answers(tmp_path / "a", RIGHT_BEFORE)
    b = folder(
        tmp_path / "b", [sample(i, x, **prompt) for i, x in enumerate(RIGHT_AFTER)], **change
    )

    code, out, err = cli("compare", str(a), str(b))

    assert code == 0 and "1.0" in out + err
    assert said in " ".join((out + err).split())
    assert cli("gate", "--baseline", str(a), "--results", str(b))[0] == 2


@pytest.mark.parametrize(("asked", "passes"), [(240, True), (239, False)])
def test_a_gate_needs_every_question_of_the_baseline(asked, passes, tmp_path, cli):
    a, b = (
        answers(tmp_path / "a", RIGHT_BEFORE * 20),
        answers(tmp_path / "b", (RIGHT_BEFORE * 20)[:asked]),
    )
    folder(
        a,
        [sample(i, x) for i, x in enumerate(RIGHT_BEFORE)],
        task="boolq",
        stamp="2026-01-02T00-00-00.0",
    )
    folder(
        b,
        [sample(i, x) for i, x in enumerate(RIGHT_BEFORE)],
        task="boolq",
        stamp="2026-01-02T00-00-00.0",
    )

    code, out, err = cli("gate", "--baseline", str(a), "--results", str(b))

    assert (code == 0) is passes, err
    assert passes or (
        code == 1 and f"{asked} questions pair; {240 - asked} only before" in " ".join(out.split())
    )
    assert cli("compare", str(a), str(b))[0] == 0


def test_a_log_likelihood_is_no_perplexity(tmp_path, cli):
    """lm-eval writes that of each answer as `perplexity`. A higher one is better."""
    higher = {"higher_is_better": {"lambada": {"perplexity": False, "acc": True}}}
    for name, worse in (("a", 0.0), ("b", 0.3)):
        rows = [
            sample(
                i, 1, metrics=["perplexity", "acc"], perplexity=-1 - i / 100 - worse * (1 + i % 3)
            )
            for i in range(60)
        ]
        folder(tmp_path / name, rows, task="lambada", **higher)

    a, b, _ = HarnessResults().pair(tmp_path / "a", tmp_path / "b")

    settings = CompareSettings(margins={"log_likelihood": 0.1})
    (row,) = compare(a, b, settings).failed
    assert (row.metric, row.verdict) == ("log_likelihood", "REGRESSION")
    results = str(tmp_path / "r")
    assert cli("import", str(tmp_path / "a"), "--model", "m", "--results", results)[0] == 0
    assert cli("check", results)[0] == 0


def test_a_record_that_readers_refuse_is_not_written(tmp_path, refused):
    folder(tmp_path / "a", [sample(i, 2 * x) for i, x in enumerate(RIGHT_BEFORE)])

    err = refused("import", str(tmp_path / "a"), "--model", "m", "--results", str(tmp_path / "r"))
    assert "piqa of" in err and "outside 0.0 to 1.0" in err
    assert not (tmp_path / "r").exists()


def test_an_import_beside_own_records_is_no_other_model(tmp_path, cli):
    fake_records.perplexity(tmp_path / "r", key_inputs={"model": "1" * 64})

    for task in ("piqa", "arc"):
        folder(tmp_path / task, [sample(i, x) for i, x in enumerate(RIGHT_BEFORE)], task=task)
        assert (
            cli(
                "import", str(tmp_path / task), "--model", "tiny", "--results", str(tmp_path / "r")
            )[0]
            == 0
        )

    assert check_folder(tmp_path / "r").problems == ()


def test_two_models_in_a_folder_are_refused(tmp_path):
    folder(tmp_path / "a", [sample(0, 1)], model_name="org/first")
    folder(tmp_path / "a", [sample(0, 0)], stamp="2026-02-01T00-00-00.0", model_name="org/second")

    with pytest.raises(UserError, match=r"several models \(first, second\): name a folder of one"):
        elsewhere.read(tmp_path / "a")


def test_a_question_that_occurs_twice_and_filters(tmp_path):
    rows = [
        sample(0, 1),
        sample(0, 0),
        sample(0, 1, filter="strict", metrics=["exact_match"], exact_match=1.0),
    ]
    found = elsewhere.read(folder(tmp_path / "a", rows))["piqa"]

    assert [q.document for q in found.scores] == ["d0", "d0#1"]
    assert found.scores[next(iter(found.scores))] == {
        "acc": 1.0,
        "acc_norm": 1.0,
        "exact_match_strict": 1.0,
    }


def test_old_samples_without_hashes_are_paired_by_content(tmp_path):
    rows = [sample(i, x, arguments=[["a", "b"]], target="0") for i, x in enumerate(RIGHT_BEFORE)]
    for row in rows:
        del row["doc_hash"], row["prompt_hash"], row["target_hash"]
    a, b = folder(tmp_path / "a", rows), folder(tmp_path / "b", rows[::-1])

    assert HarnessResults().pair(a, b).notes == ()


def test_the_newest_run_counts(tmp_path):
    folder(tmp_path / "a", [sample(0, 0)], stamp="2026-02-01T00-00-00.0")
    folder(tmp_path / "a", [sample(0, 1)])

    (scores,) = elsewhere.read(tmp_path / "a")["piqa"].scores.values()
    assert scores["acc"] == 0


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("samples_piqa_2026-01-01T00-00-00.0.jsonl", "{", "line 1 is no sample of lm-eval"),
        (
            "samples_piqa_2026-01-01T00-00-00.0.jsonl",
            '{"filter": "none"}',
            "line 1 is no sample of lm-eval",
        ),
        ("results_2026-01-01T00-00-00.0.json", "[]", "cannot be read as results"),
        ("results_2026-01-01T00-00-00.0.json", '{"results": {}}', "--log_samples"),
    ],
)
def test_a_damaged_folder_is_refused_in_a_sentence(file, content, said, tmp_path):
    answers(tmp_path / "a", RIGHT_BEFORE)
    (tmp_path / "a/some__model" / file).write_text(content)

    with pytest.raises(UserError, match=said):
        elsewhere.read(tmp_path / "a")


def test_a_folder_of_another_kind_is_refused(tmp_path, refused):
    answers(tmp_path / "a", RIGHT_BEFORE)
    (tmp_path / "b/records").mkdir(parents=True)

    assert "name two such folders" in refused("compare", str(tmp_path / "a"), str(tmp_path / "b"))


def test_an_imported_folder_is_a_row_of_a_leaderboard(tmp_path, cli, output):
    a, b = answers(tmp_path / "a", RIGHT_BEFORE), answers(tmp_path / "b", RIGHT_AFTER)
    results = str(tmp_path / "r")
    for folder_, method, pattern in ((a, "dense", "dense"), (b, "theirs", "2:4")):
        named = ("--model", "some-model", "--method", method, "--pattern", pattern)
        output("import", str(folder_), "--results", results, *named)

    assert cli("check", results)[0] == 0
    out = output("report", "--results", results)
    assert "theirs" in out and "piqa@1.0 in lm-eval" in out
    out = output("compare", "dense", "theirs", "--results", results, "--json")
    (row,) = [row for row in json.loads(out)["rows"] if row["metric"] == "acc"]
    assert row["before"] == pytest.approx(sum(RIGHT_BEFORE) / 12)


def test_an_import_needs_a_name(tmp_path, refused):
    assert "--model" in refused(
        "import", str(answers(tmp_path / "a", RIGHT_BEFORE)), "--results", str(tmp_path / "r")
    )


@pytest.mark.parametrize("higher", ["x", [1]])
def test_directions_of_another_type(higher, tmp_path):
    folder(tmp_path, [sample(0, 1)], higher_is_better={"piqa": higher})

    with pytest.raises(UserError, match=r"results_.*json cannot be read as results of lm-eval"):
        elsewhere.read(tmp_path)


@pytest.mark.parametrize("name", ["samples_piqa", "results"])
def test_a_file_without_an_end(name, tmp_path):
    folder(tmp_path, [sample(0, 1)])
    (file,) = tmp_path.rglob(f"{name}_*")
    os.truncate(file, 2**34)

    with limits(), pytest.raises(UserError, match="more than"):
        elsewhere.read(tmp_path)


def test_a_name_that_no_record_can_have(tmp_path, refused):
    folder(tmp_path / "in", [sample(0, 1)])

    assert "cannot be a record" in refused(
        "import", tmp_path / "in", "--model", "m\udcff", "--results", tmp_path / "r"
    )
