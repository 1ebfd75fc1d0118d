"""Folders of lm-eval: questions are paired by content, and what cannot be paired is said."""

import json

import pytest

from bench.comparing.gate_settings import CompareSettings
from bench.comparing.verdict import compare
from bench.parts.harnesses import elsewhere
from bench.parts.harnesses.elsewhere import HarnessResults
from bench.results.folder_check import check_folder
from bench.stats.mcnemar import mcnemar_p, tango_interval
from helpers import fake_records
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
    results = {"results": {task: {"acc,none": 0.5}}, "versions": {task: 1.0}, "n-shot": {task: 0}}
    results["higher_is_better"] = {task: {"acc": True, "acc_norm": True}}
    (home / f"results_{stamp}.json").write_text(json.dumps(results | about))
    lines = [json.dumps(row) for row in rows]
    (home / f"samples_{task}_{stamp}.jsonl").write_text("\n".join(lines) + "\n")
    return path


def answers(path, right, **fields):
    """One line for each question, in any order."""
    return folder(path, [sample(i, x, **fields) for i, x in reversed(list(enumerate(right)))])


def test_the_counts_are_those_of_a_few_lines(tmp_path, output):
    a, b = answers(tmp_path / "a", RIGHT_BEFORE), answers(tmp_path / "b", RIGHT_AFTER)

    rows = {row["metric"]: row for row in json.loads(output("compare", a, b, "--json"))["rows"]}
    pairs = list(zip(RIGHT_BEFORE, RIGHT_AFTER, strict=True))
    lost, gained = sum(x > y for x, y in pairs), sum(x < y for x, y in pairs)
    assert set(rows) == {"acc", "acc_norm"}
    assert rows["acc"]["before"] == pytest.approx(sum(RIGHT_BEFORE) / 12)
    before, after, _ = HarnessResults().pair(a, b)
    settings = CompareSettings()
    (row, _) = compare(before, after, settings, exploratory=True, every_metric=True).rows
    found = row.estimate
    assert (found.lost, found.gained, found.n) == (lost, gained, 12)
    assert found.p == mcnemar_p(lost, gained)
    assert (found.low, found.high) == tango_interval(lost, gained, 12, settings.alpha)


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
    change = dict(change)
    prompt = change.pop("prompt", "p")
    rows = [sample(i, x, prompt) for i, x in enumerate(RIGHT_AFTER)]
    a, b = answers(tmp_path / "a", RIGHT_BEFORE), folder(tmp_path / "b", rows, **change)
    code, out, err = cli("compare", a, b)
    assert code == 0 and said in " ".join((out + err).split())
    assert cli("gate", "--baseline", a, "--results", b)[0] == 2


@pytest.mark.parametrize(("asked", "passes"), [(240, True), (239, False)])
def test_a_gate_needs_every_question_of_the_baseline(asked, passes, tmp_path, cli):
    a = answers(tmp_path / "a", RIGHT_BEFORE * 20)
    b = answers(tmp_path / "b", (RIGHT_BEFORE * 20)[:asked])
    other = [sample(i, x) for i, x in enumerate(RIGHT_BEFORE)]
    for path in (a, b):
        folder(path, other, task="boolq", stamp="2026-01-02T00-00-00.0")
    code, out, err = cli("gate", "--baseline", a, "--results", b)
    assert code == (0 if passes else 1), err
    assert passes or "239 questions pair; 1 only before" in " ".join(out.split())
    assert cli("compare", a, b)[0] == 0


def test_a_log_likelihood_is_no_perplexity(tmp_path, output):
    """lm-eval writes that of each answer as `perplexity`. A higher one is better."""
    higher = {"higher_is_better": {"lambada": {"perplexity": False, "acc": True}}}
    for name, worse in (("a", 0.0), ("b", 0.3)):
        values = [-1 - i / 100 - worse * (1 + i % 3) for i in range(60)]
        rows = [
            sample(i, 1, metrics=["perplexity", "acc"], perplexity=value)
            for i, value in enumerate(values)
        ]
        folder(tmp_path / name, rows, task="lambada", **higher)

    a, b, _ = HarnessResults().pair(tmp_path / "a", tmp_path / "b")

    settings = CompareSettings(margins={"log_likelihood": 0.1})
    (row,) = compare(a, b, settings).failed
    assert (row.metric, row.verdict) == ("log_likelihood", "REGRESSION")
    output("import", tmp_path / "a", "--model", "m", "--results", tmp_path / "r")
    output("check", tmp_path / "r")


def test_a_record_that_readers_refuse_is_not_written(tmp_path, refused):
    folder(tmp_path / "a", [sample(i, 2 * x) for i, x in enumerate(RIGHT_BEFORE)])
    err = refused("import", str(tmp_path / "a"), "--model", "m", "--results", str(tmp_path / "r"))
    assert "piqa of" in err and "outside 0.0 to 1.0" in err
    assert not (tmp_path / "r").exists()


def test_an_import_beside_own_records_is_no_other_model(tmp_path, output):
    fake_records.perplexity(tmp_path / "r", key_inputs={"model": "1" * 64})
    for task in ("piqa", "arc"):
        folder(tmp_path / task, [sample(i, x) for i, x in enumerate(RIGHT_BEFORE)], task=task)
        output("import", tmp_path / task, "--model", "tiny", "--results", tmp_path / "r")
    assert check_folder(tmp_path / "r").problems == ()


def test_two_models_in_a_folder_are_refused(tmp_path):
    folder(tmp_path / "a", [sample(0, 1)], model_name="org/first")
    folder(tmp_path / "a", [sample(0, 0)], stamp="2026-02-01T00-00-00.0", model_name="org/second")
    with pytest.raises(UserError, match=r"several models \(first, second\): name a folder of one"):
        elsewhere.read(tmp_path / "a")


def test_a_question_that_occurs_twice_and_filters(tmp_path):
    strict = {"filter": "strict", "metrics": ["exact_match"], "exact_match": 1.0}
    rows = [sample(0, 1), sample(0, 0), sample(0, 1, **strict)]
    found = elsewhere.read(folder(tmp_path / "a", rows))["piqa"]
    assert [q.document for q in found.scores] == ["d0", "d0#1"]
    first = next(iter(found.scores.values()))
    assert first == {"acc": 1.0, "acc_norm": 1.0, "exact_match_strict": 1.0}


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
        ("samples_piqa", "{", "line 1 is no sample of lm-eval"),
        ("samples_piqa", '{"filter": "none"}', "line 1 is no sample of lm-eval"),
        ("results", "[]", "cannot be read as results"),
        ("results", '{"results": {}}', "--log_samples"),
        ("results", '{"higher_is_better": {"piqa": [1]}}', "cannot be read as results"),
        ("results", '{"higher_is_better": {"piqa": "x"}}', "cannot be read as results"),
    ],
)
def test_a_damaged_folder_is_refused_in_a_sentence(file, content, said, tmp_path):
    answers(tmp_path / "a", RIGHT_BEFORE)
    (file,) = tmp_path.rglob(f"{file}_*")
    if "higher" in content:
        content = json.dumps(json.loads(file.read_text()) | json.loads(content))
    file.write_text(content)
    with pytest.raises(UserError, match=said):
        elsewhere.read(tmp_path / "a")


def test_a_folder_of_another_kind_is_refused(tmp_path, refused):
    answers(tmp_path / "a", RIGHT_BEFORE)
    (tmp_path / "b/records").mkdir(parents=True)
    assert "name two such folders" in refused("compare", tmp_path / "a", tmp_path / "b")


def test_an_imported_folder_is_a_row_of_a_leaderboard(tmp_path, output):
    a, b = answers(tmp_path / "a", RIGHT_BEFORE), answers(tmp_path / "b", RIGHT_AFTER)
    results = ("--results", tmp_path / "r")
    for folder_, method, pattern in ((a, "dense", "dense"), (b, "theirs", "2:4")):
        named = ("--model", "some-model", "--method", method, "--pattern", pattern)
        output("import", folder_, *results, *named)

    output("check", tmp_path / "r")
    out = output("report", *results)
    assert "theirs" in out and "piqa@1.0 in lm-eval" in out
    rows = json.loads(output("compare", "dense", "theirs", *results, "--json"))["rows"]
    (row,) = [row for row in rows if row["metric"] == "acc"]
    assert row["before"] == pytest.approx(sum(RIGHT_BEFORE) / 12)


def test_an_import_needs_a_name_that_a_record_can_have(tmp_path, refused):
    line = ("import", answers(tmp_path / "a", RIGHT_BEFORE), "--results", tmp_path / "r")
    assert "--model" in refused(*line)
    assert "cannot be a record" in refused(*line, "--model", "m\udcff")
