"""Zero-shot tasks: lm-eval's own numbers, question by question, from data that lies here."""

import socket
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from bench import api
from bench.inputs import lmeval, loading, task_yaml, tasks, wikimini
from bench.inputs.task_yaml import read_task
from bench.measures import packed_scoring
from bench.results.store import ReadOnlyStore
from helpers import runs
from methods.contract.errors import UserError
from methods.contract.method import Compute, NoProgress

PIQA = [
    ("To open a jar", "turn its lid", "turn the sun", 0),
    ("To boil an egg", "put it in ice", "put it in boiling water", 1),
    ("To dry wet hands", "use a towel", "use a lake", 0),
    ("To write a letter", "eat the paper", "take a pen", 1),
    ("To light a room", "switch on a lamp", "close the eyes", 0),
    ("To light a room", "switch on a lamp", "close the eyes", 0),
]
"""The last row stands there twice."""
LIMIT = 20


def table(root, record):
    """A record's items in the order of their file."""
    return pd.read_parquet(ReadOnlyStore(root).items_path(record))


pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def mirror(tmp_path):
    """PIQA as its mirror holds it: the validation split alone."""
    folder = tmp_path / "mirror/baber/piqa"
    (folder / "data").mkdir(parents=True)
    split = "  - split: validation\n    path: data/validation-*.parquet\n"
    readme = f"---\nconfigs:\n- config_name: default\n  data_files:\n{split}---\n"
    (folder / "README.md").write_text(readme)
    names = ("goal", "sol1", "sol2", "label")
    rows = pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in PIQA])
    pq.write_table(rows, folder / "data/validation-00000-of-00001.parquet")
    return tmp_path / "mirror"


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def run(results, *names, limit=LIMIT, methods=("dense",), **changes):
    """Records by method and task."""
    given = {"measures": ("zeroshot",), "tasks": names, "zeroshot": {"limit": limit}}
    runs.run_here(runs.small(results, methods=methods, **given | changes))
    found = [r for r in ReadOnlyStore(Path(results)) if r.identity.measure == "zeroshot"]
    return {(r.identity.method, r.identity.protocol.label.split("@")[0]): r for r in found}


def by_hand(folder, names, limit=LIMIT):
    """lm-eval on a saved model, as its own documentation does it."""
    configs = [lmeval.read_config(read_task(name, "")) for name in names]
    lm = HFLM(pretrained=str(folder), device="cpu", batch_size=16)
    manager = TaskManager(include_defaults=False)
    return simple_evaluate(lm, tasks=configs, task_manager=manager, limit=limit)


def test_is_lm_evals_own_item_by_item(tmp_path):
    """On a pruned model, which is the file that `bench prune` writes."""
    got = run(tmp_path / "r", *tasks.BUILTIN_TASKS, methods=("magnitude",))
    artifacts = [p.parent for p in (tmp_path / "cache/artifacts").glob("*/model.safetensors")]
    (folder,) = [p for p in artifacts if "magnitude" in (p / "artifact.json").read_text()]
    want = by_hand(folder, tasks.BUILTIN_TASKS)

    for name in tasks.BUILTIN_TASKS:
        record = got["magnitude", name]
        items = table(tmp_path / "r", record)
        samples, results = want["samples"][name], want["results"][name]
        assert list(items["item_id"]) == [s["doc_hash"] for s in samples]
        assert list(items["value"]) == [s["acc"] for s in samples]
        assert list(items["cluster_id"]) == [s["doc"]["article"] for s in samples]
        assert set(items["weight"]) == {1.0}
        for read in record.readings:
            assert read.value == results[f"{read.metric},none"]
            assert read.stderr == pytest.approx(results[f"{read.metric}_stderr,none"])
            assert (read.n, read.better) == (LIMIT, "higher")
        if "acc_norm" in items:
            assert list(items["acc_norm"]) == [s["acc_norm"] for s in samples]
    record = got["magnitude", "wiki_continuation"]
    assert {r.metric for r in record.readings} == {"acc", "acc_norm"}
    assert 0 < record.readings[0].value < 1
    answers = [s["target"] for s in want["samples"]["wiki_continuation"]]
    assert record.notes["chance"] == 0.25
    assert record.notes["majority"] == max(map(answers.count, answers)) / LIMIT


def test_record_says_what_decided_it(tmp_path):
    record = run(tmp_path / "r", "wiki_lastword", limit=4)["dense", "wiki_lastword"]
    config = record.key_inputs["measure"]["config"]
    assert record.identity.protocol.label == f"wiki_lastword@{wikimini.TASK_VERSION}x4"
    assert config["harness"] == version("lm_eval") and config["version"] == "1.0"
    assert (config["tokens"], config["batch"]) == (1024, 16)
    assert record.notes == {"data": "wiki-mini", "revision": "", "engine": "packed"}


@pytest.mark.parametrize("change", [{"tokens": 512}, {"limit": 5}], ids=str)
def test_key_moves_with_how_it_is_run(change):
    tasks = ("wiki_lastword", "piqa")

    def keys(**zeroshot):
        spec = runs.small("r", measures=("zeroshot", "size"), tasks=tasks, zeroshot=zeroshot)
        return {(c.artifact.method, c.label): c.key for c in api.plan(spec).measurements}

    before, after = keys(), keys(**change)
    moved = {label for method, label in before if before[method, label] != after[method, label]}
    assert moved == {f"zeroshot {task}" for task in tasks}


def counting():
    """Return a list, and a progress that adds to it."""
    steps = []
    return steps, SimpleNamespace(advance=lambda done, total, **_: steps.append((done, total)))


@pytest.mark.parametrize("packed", [True, pytest.param(False, marks=pytest.mark.full)])
def test_progress_counts_requests(packed):
    progress, count = counting()
    model, tokenizer = loading.load(runs.TINY, Compute()), loading.load_tokenizer(runs.TINY)
    task = read_task("wiki_continuation", "")
    scorer = partial(packed_scoring.score, model, capacity=64) if packed else None
    lmeval.evaluate(model, tokenizer, task, None, 16, 3, count, scorer)
    assert progress == [(i, 12) for i in range(1, 13)]


# Who runs the model


@pytest.mark.full
def test_lm_eval_runs_a_model_that_cannot_be_packed(tmp_path, monkeypatch):
    def read(name):
        record = run(tmp_path / name, "wiki_continuation")["dense", "wiki_continuation"]
        return record, table(tmp_path / name, record)

    packed, items = read("packed")
    monkeypatch.setattr(packed_scoring, "find_obstacle", lambda _: "attention of another kind")
    other, other_items = read("other")

    assert packed.notes["engine"] == "packed"
    assert other.notes["engine"] == "lm-eval: attention of another kind"
    assert packed.readings == other.readings and items.equals(other_items)
    assert 2 * packed.cost["tokens"] < other.cost["tokens"]


GENERATION = """\
task: {kind}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{text}}}}"
doc_to_target: "{{{{text}}}}"
"""
METRICS = {
    "generate_until": (
        "generation_kwargs: {until: ['.'], max_gen_toks: 3}\nmetric_list: [{metric: exact_match}]\n"
    ),
    "loglikelihood_rolling": "metric_list: [{metric: word_perplexity}]\n",
}


@pytest.mark.parametrize(
    "kind", ["generate_until", pytest.param("loglikelihood_rolling", marks=pytest.mark.full)]
)
def test_lm_eval_answers_other_requests(kind, tmp_path, monkeypatch):
    """Texts to go on with, and likelihoods of whole texts."""
    docs = tmp_path / "docs.jsonl"
    docs.write_text('{"text": "The river flows to the"}\n{"text": "In the year of"}\n')
    text = GENERATION.format(kind=kind, file=docs) + METRICS[kind]
    index(monkeypatch, tmp_path, **{kind: text})
    model, tokenizer = loading.load(runs.TINY, Compute()), loading.load_tokenizer(runs.TINY)
    task = read_task(kind, f"{kind}.yaml")
    refuse = partial(pytest.fail, "the scorer was asked")
    steps, count = counting()
    scores = lmeval.evaluate(model, tokenizer, task, None, 1, None, count, refuse)
    assert scores.left == (kind,) and len(scores.samples) == 2
    assert steps == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("context", "answer"), [(" ", "a"), ("Question:", "")], ids=["context", "continuation"]
)
def test_nothing_to_score_is_one_sentence(context, answer):
    model, tokenizer = loading.load(runs.TINY, Compute()), loading.load_tokenizer(runs.TINY)
    scorer = partial(packed_scoring.score, model, capacity=64)
    lm = lmeval._LoadedModel(model, tokenizer, 16, NoProgress(), scorer)
    request = Instance("loglikelihood", {}, (context, answer), 0, ("task", 0, 1))
    with pytest.raises(UserError, match="cannot be scored") as refusal:
        lm.loglikelihood([request])
    assert repr(answer) in str(refusal.value) and len(str(refusal.value).splitlines()) == 1


def test_the_tokenizer_stays_as_it_was():
    """lm-eval gives it a token to pad with."""
    model, tokenizer = loading.load(runs.TINY, Compute()), loading.load_tokenizer(runs.TINY)
    before = tokenizer.pad_token
    lmeval.evaluate(model, tokenizer, read_task("wiki_lastword", ""), None, 16, 2, NoProgress())
    assert tokenizer.pad_token == before


# Data of the hub


def test_hub_task_from_a_mirror(mirror, tmp_path, no_network):
    got = run(tmp_path / "r", "piqa", limit=None, data_dir=mirror)["dense", "piqa"]
    items = table(tmp_path / "r", got)
    assert got.status == "ok" and got.readings[0].n == len(PIQA) == len(set(items["item_id"]))
    assert items["item_id"][5] == items["item_id"][4] + "#1"
    assert list(items["cluster_id"]) == list(items["item_id"])
    made = {"data": "baber/piqa", "revision": "mirror", "engine": "packed"}
    assert got.notes == made | {"chance": 1 / 2, "majority": 4 / 6}
    assert list(items["value"]) == scored_by_hand()


def scored_by_hand():
    """Whether the answer of the larger ln p after PIQA's prompt, summed over its tokens, is the
    right one."""
    model, encode = loading.load(runs.TINY, Compute()), loading.load_tokenizer(runs.TINY)
    out = []
    for goal, *answers, label in PIQA:
        prompt = f"Question: {goal}\nAnswer:"
        start = len(encode(prompt)["input_ids"])
        sums = []
        for answer in answers:
            ids = torch.tensor([encode(f"{prompt} {answer}")["input_ids"]])
            with torch.no_grad():
                logs = model(input_ids=ids).logits[0, :-1].double().log_softmax(-1)
            sums.append(float(logs.gather(1, ids[0, 1:, None])[start - 1 :].sum()))
        out.append(float(sums.index(max(sums)) == label))
    return out


def test_content_of_a_mirror_decides_the_key(mirror):
    def keys():
        spec = runs.small("r", measures=("zeroshot",), tasks=("piqa",), data_dir=mirror)
        return {c.key for c in api.plan(spec).measurements if c.measure == "zeroshot"}

    before = keys()
    assert before == keys()
    (mirror / "baber/piqa/REVISION").write_text("abc\n")
    assert before == keys()
    assert tasks.revision(read_task("piqa", tasks.TASK_FILES["piqa"]), mirror) == "abc"
    file = mirror / "baber/piqa/data/validation-00000-of-00001.parquet"
    pq.write_table(pq.read_table(file).slice(0, 5), file)
    assert not before & keys()


def test_pulled_data_is_at_one_revision_and_holds_no_code(fake_hub):
    data = ("data/validation.parquet", "README.md")
    fake_hub.files = (*data, "load.py", "weights.pkl", ".gitattributes")
    task = read_task("piqa", tasks.TASK_FILES["piqa"])
    tasks.ensure(task, None)

    assert fake_hub.downloads == [("baber/piqa", "dataset", fake_hub.revision)]
    files = {p.name for p in tasks.data_folder(task, None).rglob("*") if p.is_file()}
    assert files == {"README.md", "REVISION", "validation.parquet"}
    assert tasks.revision(task, None) == fake_hub.revision
    tasks.ensure(task, None)
    assert len(fake_hub.downloads) == 1


def test_the_sets_data_is_known_without_lm_eval():
    """Hub ids and versions as this lm-eval has them."""
    found = {n: read_task(n, f) for n, f in tasks.expand(tuple(tasks.TASK_SETS)).items()}
    assert len(found) == 9 and all("/" in t.hub and t.version and t.digest for t in found.values())
    assert found["arc_challenge"].hub == found["arc_easy"].hub == "allenai/ai2_arc"
    assert found["arc_challenge"].digest != found["arc_easy"].digest


# Names


def test_sets_and_doubles_are_expanded():
    got = tasks.expand(("piqa", "maskllm7", "wanda7", "wiki_lastword"))
    assert next(iter(got)) == "piqa" and list(got)[-1] == "wiki_lastword"
    assert len(got) == len({*tasks.TASK_SETS["maskllm7"], *tasks.TASK_SETS["wanda7"]}) + 1 == 10


def index(monkeypatch, folder, **texts):
    """lm-eval's index as if it held these tasks."""
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)
    manager = TaskManager(include_defaults=False, include_path=str(folder))
    monkeypatch.setattr(lmeval, "_index", lambda: manager)
    monkeypatch.setattr(task_yaml, "tasks_root", lambda: folder)
    monkeypatch.setattr(lmeval, "tasks_root", lambda: folder)


SCIQ = "task: sciq\ndataset_path: allenai/sciq\ntag: sciences\nmetadata: {version: 2.0}\n"


def test_other_tasks_come_from_lm_evals_index(monkeypatch, tmp_path):
    other = SCIQ.replace("sciq", "other")
    every = "group: every\ntask: [sciences]\n"
    changed = "group: changed\ntask: [{task: sciq, num_fewshot: 5}]\n"
    index(monkeypatch, tmp_path, sciq=SCIQ, other=other, every=every, changed=changed)

    assert tasks.expand(("sciq",)) == {"sciq": "sciq.yaml"}
    assert read_task("sciq", "sciq.yaml")[2:4] == ("allenai/sciq", "2.0")
    for name in ("sciences", "every"):
        assert tasks.expand((name,)) == {"other": "other.yaml", "sciq": "sciq.yaml"}
    with pytest.raises(UserError, match=r"group 'changed' .* one by one"):
        tasks.expand(("changed",))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("piqqa", "did you mean piqa"),
        ("maskllm", "did you mean maskllm7"),
        ("zzzzzz", "known: maskllm7"),
        ("zzzzzz", "lm-eval's, or a file such as my_task.yaml"),
    ],
)
def test_unknown_task(refused, monkeypatch, tmp_path, name, said):
    folder = tmp_path / "tasks"
    folder.mkdir()
    index(monkeypatch, folder, piqa=SCIQ.replace("sciq", "piqa"))
    err = refused("run", "--tasks", name, "--results", tmp_path / "r")
    assert f"unknown task '{name}'" in err and said in err
