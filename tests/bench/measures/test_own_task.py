"""A user's task file gives the answers of the lm-eval command, with examples, a chat template and
generated text."""

import json
import math

import pytest
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from bench.inputs import tasks
from bench.inputs.task_yaml import read_task
from bench.planning.plan import make_plan
from bench.results.derive import scores_of
from bench.results.folder_check import check_folder
from bench.results.store import ReadOnlyStore
from helpers import runs
from methods.contract.errors import UserError

LIMIT = 8
CHAT = {"apply_chat_template": True}
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if "
    "add_generation_prompt %}<assistant>{% endif %}"
)
CHOICE = """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: label
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
GENERATED = """
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[label]}}"
generation_kwargs: {until: ["."], max_gen_toks: 4, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""
LAST_WORD = """
output_type: loglikelihood
doc_to_text: "{{question}}"
doc_to_target: " {{choices[0]}}"
metric_list:
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
WHOLE_TEXT = """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}} {{choices[0]}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
"""
TWO_FILTERS = (
    GENERATED
    + "filter_list:\n"
    + "".join(
        f'  - name: {name}\n    filter: [{{function: regex, regex_pattern: "{pattern}"}}, '
        "{function: take_first}]\n"
        for name, pattern in (("strict", "#### ([0-9]+)"), ("flexible", "(.)"))
    )
)


pytestmark = pytest.mark.usefixtures("cache")


def task_file(folder, kind=CHOICE, name="mine"):
    folder.mkdir(exist_ok=True)
    rows = [
        {"question": f"a word {i}", "choices": ["yes it is", "no it was"], "label": i % 2}
        for i in range(20)
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    head = f"task: {name}\ndataset_path: json\ntest_split: test\ntraining_split: test\n"
    head += f"dataset_kwargs: {{data_files: {{test: {folder / 'rows.jsonl'}}}}}\n"
    (folder / f"{name}.yaml").write_text(head + "metadata: {version: 2.0}\n" + kind)
    return folder / f"{name}.yaml"


def run(results, file, **changes):
    """Run a task on the dense model. changes: of the settings, and a model. Return the record."""
    model = changes.pop("model", "tiny")
    about = {"models": (str(model),), "measures": ("zeroshot",), "tasks": (str(file),)}
    runs.run_here(
        runs.small(results, zeroshot={"limit": LIMIT} | changes, **about), only=("dense",)
    )
    (record,) = [r for r in ReadOnlyStore(results) if r.identity.measure == "zeroshot"]
    assert record.status == "ok", record.traceback
    return record


@pytest.mark.parametrize(
    ("kind", "settings", "label"),
    [
        pytest.param(CHOICE, {"num_fewshot": 2}, "mine@2.0x8 (2-shot)", marks=pytest.mark.full),
        (CHOICE, CHAT | {"num_fewshot": 1}, "mine@2.0x8 (1-shot, chat template)"),
        (GENERATED, {"gen_kwargs": "max_gen_toks=2"}, "mine@2.0x8 (max_gen_toks=2)"),
    ],
)
def test_the_answers_are_those_of_lm_eval(kind, settings, label, tmp_path):
    file, model = task_file(tmp_path / "t", kind), runs.tiny(tmp_path / "m")
    (model / "chat_template.jinja").write_text(TEMPLATE)

    record = run(tmp_path / "r", file, model=model, **settings)

    assert record.identity.protocol.label == label
    lm = HFLM(pretrained=str(model), device="cpu", batch_size=16)
    manager = TaskManager(include_path=str(file.parent), include_defaults=False)
    how = {"limit": LIMIT, "bootstrap_iters": 0} | settings
    found = simple_evaluate(lm, tasks=["mine"], task_manager=manager, **how)
    want = found["results"]["mine"]
    for reading in record.readings:
        assert reading.value == want[f"{reading.metric},none"]


@pytest.mark.parametrize(
    ("kind", "metrics"),
    [
        (LAST_WORD, {"perplexity", "acc"}),
        (WHOLE_TEXT, {"corpus_bits_per_byte"}),
        (TWO_FILTERS, {"exact_match_strict", "exact_match_flexible"}),
    ],
)
def test_each_metric_has_its_own_scores(kind, metrics, tmp_path):
    record = run(tmp_path / "r", task_file(tmp_path / "t", kind))
    items = ReadOnlyStore(tmp_path / "r").items(record)

    assert check_folder(tmp_path / "r").problems == ()
    for reading in record.readings:
        scores = scores_of(reading.metric, record, items)
        assert (scores is not None) == (reading.metric in metrics)
        if scores is not None:
            mean = scores.sum() / items.weights.sum()
            mean = math.exp(mean) if reading.metric == "perplexity" else mean
            assert reading.value == pytest.approx(mean)


def test_names_in_a_folder_and_the_content_in_the_key(tmp_path):
    file = task_file(tmp_path / "t")
    settings = {"include_path": str(file.parent)}
    spec = runs.small(tmp_path / "r", measures=("zeroshot",), tasks=("mine",), zeroshot=settings)

    def keys():
        return {m.key for m in make_plan(spec).measurements if m.measure == "zeroshot"}

    before = keys()
    (tmp_path / "t/rows.jsonl").write_text('{"question": "x", "choices": ["a", "b"], "label": 0}')
    assert before.isdisjoint(keys())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("dataset_path: json\n", "names no task"),
        ("", "names no task"),
        ("- a\n", "cannot be read"),
        (None, "cannot be read"),
        *[(f"task: {x}\n", "cannot be read") for x in ("[", "2024-13-45", "9" * 5000)],
        *[(f"task: mine\nx: {x}\n", "cannot be read") for x in ('!!int ""', "!!bool maybe")],
    ],
)
def test_a_bad_file_is_refused_in_a_sentence(content, said, tmp_path):
    file = tmp_path / "a.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=said) as refused:
        tasks.expand((str(file),))
    assert "\n" not in str(refused.value)


def test_aliases_of_aliases_are_not_expanded(tmp_path):
    """The last anchor, `x30`, stands for 2^30 values."""
    file = tmp_path / "a.yaml"
    doubling = "x0: &x0 [a]\n" + "".join(f"x{i + 1}: &x{i + 1} [*x{i}, *x{i}]\n" for i in range(30))
    keys = ("dataset_name", "dataset_path", "test_split", "validation_split")
    names = "".join(f"{key}: *x30\n" for key in keys)
    file.write_text(doubling + f"task: mine\n{names}metadata: {{version: *x30}}\n")
    task = read_task("mine", str(file))
    assert (task.config, task.hub, task.split, task.version) == ("", "", "", "")


@pytest.mark.parametrize("files", ["{test: nowhere.jsonl}", "{train: FILE}", "nowhere*.jsonl"])
def test_questions_that_do_not_exist_are_refused_before_anything_is_loaded(files, tmp_path):
    file = tmp_path / "a.yaml"
    kwargs = f"dataset_kwargs: {{data_files: {files.replace('FILE', str(file))}}}\n"
    file.write_text(f"task: mine\ndataset_path: json\ntest_split: test\n{kwargs}")
    with pytest.raises(UserError, match="names no file that exists for its split 'test'"):
        make_plan(runs.small(tmp_path / "r", measures=("zeroshot",), tasks=(str(file),)))


def test_examples_for_a_task_that_is_for_none(tmp_path):
    file = task_file(tmp_path / "t", CHOICE + "num_fewshot: 0\n")
    about = {"measures": ("zeroshot",), "tasks": (str(file),), "zeroshot": {"num_fewshot": 3}}
    with pytest.raises(UserError, match="for 0 examples"):
        make_plan(runs.small(tmp_path / "r", **about))


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(UserError, match="task folder"):
        tasks.expand(("mine",), tmp_path / "none")
