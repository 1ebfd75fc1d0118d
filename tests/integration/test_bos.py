"""BOS at the start of each window and sequence, on a random Gemma whose tokenizer adds it."""

import json
import math

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, processors
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from bench.execution.new_record import new_record
from bench.inputs import bos, loading, training_text, windows
from bench.inputs.tokenizer_facts import read_tokenizer_facts
from bench.planning.plan import make_plan
from bench.planning.spec import Spec
from bench.results import reproduce
from helpers import models, runs
from methods.contract.errors import UserError

BOS = 1024
"""Token after the last of tiny's vocabulary."""
SEQLEN = 32
SHORT = {
    "methods": ("wanda",),
    "measures": ("perplexity", "agreement"),
    "perplexity": {"windows": 3, "seqlen": SEQLEN, "data": "wiki-mini"},
    "calibration": {"sequences": 4, "seqlen": SEQLEN},
}


def with_bos(tokenizer, template="<bos> $A"):
    tokenizer.add_special_tokens([AddedToken("<bos>", special=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, pair="$A $B", special_tokens=[("<bos>", BOS)]
    )
    return tokenizer


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    folder = models.random_folder(
        "gemma3_text", tmp_path_factory.mktemp("gemma") / "gemma", vocab_size=BOS + 1
    )
    with_bos(Tokenizer.from_file(str(folder / "tokenizer.json"))).save(
        str(folder / "tokenizer.json")
    )
    about = json.loads((folder / "tokenizer_config.json").read_text()) | {"bos_token": "<bos>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    return folder


@pytest.fixture
def tokenizer(gemma):
    return loading.load_tokenizer(gemma)


def planned(model, results="none", **changes):
    spec = Spec(**(runs.SMALL | SHORT | {"models": (str(model),), "results": results} | changes))
    return [m for m in make_plan(spec, fetch=True).measurements if m.artifact.method != "dense"]


def test_what_a_tokenizer_begins_with(gemma):
    tiny = Tokenizer.from_file(str(runs.TINY / "tokenizer.json"))
    assert bos.begins_with_bos(Tokenizer.from_file(str(gemma / "tokenizer.json")))
    assert not bos.begins_with_bos(tiny)
    assert not bos.begins_with_bos(with_bos(tiny, "$A <bos>"))


def test_windows_begin_with_bos_and_lose_no_text(tokenizer):
    text, whole = (
        windows.load_windows("wiki-mini", tokenizer, n, 4, None, bos=b)[0]
        for n, b in ((31, ""), (32, "auto"))
    )

    assert whole[:, 0].tolist() == [BOS] * 4
    # As papers cut: the whole text is encoded once.
    assert text[0, 0] == BOS and BOS not in text[1:]
    assert whole[:, 1:].flatten()[:-1].tolist() == text.flatten()[1:].tolist()
    assert torch.equal(
        windows.load_windows("wiki-mini", tokenizer, 31, 4, None, bos="never")[0], text
    )


def test_the_check_counts_text_alone(gemma, tokenizer):
    options = ("wiki-mini", tokenizer, 3, None, None, "validation", "auto")
    there = len(windows.load_windows(*options)[0])

    def check(count):
        facts = read_tokenizer_facts(gemma)
        windows.check_windows("wiki-mini", 3, count, facts, None, "validation", first=1)

    check(there)
    with pytest.raises(UserError, match=f"windows={there + 3}"):
        check(there + 3)


def test_calibration_and_training_begin_with_bos(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("CAST_BENCH_CACHE", str(tmp_path))
    first = bos.first_tokens(tokenizer, "auto")
    encode = lambda text: list(bos.encode(tokenizer, text, first)["input_ids"])  # noqa: E731
    crops = np.array(windows.draw_calibration("wiki-mini", 8, SEQLEN, 0, encode, None, first))
    options = {"need": 10**4, "seqlen": SEQLEN, "sequences": 5, "seed": 0, "data_dir": None}
    corpus, held = training_text.load("wiki-mini", tokenizer, "x", **options, bos="auto")
    plain, _ = training_text.load("wiki-mini", tokenizer, "x", **options)
    step = corpus.batch(0).numpy()

    for rows in (crops, held, step):
        assert rows.shape[1] == SEQLEN and (rows[:, 0] == BOS).all() and BOS not in rows[:, 1:]
    assert np.array_equal(corpus.ids, plain.ids) and corpus.digest != plain.digest
    assert corpus.step_tokens == step.size == 5 * SEQLEN
    text = plain.ids.tobytes()
    assert all(row[1:].astype(plain.ids.dtype).tobytes() in text for row in step)


def test_a_run_has_bos_in_its_numbers_names_and_keys(gemma, tmp_path, cache):
    own, papers, forced = (planned(gemma, bos=rule) for rule in ("auto", "never", "always"))
    names = {m.measure: m.identity.labels() for m in own}
    spec = Spec(**(runs.SMALL | SHORT | {"models": (str(gemma),), "results": tmp_path / "r"}))
    runs.run_here(spec, only=["dense"])
    record = runs.records(tmp_path / "r")["dense", None, "perplexity"]
    tokenizer = loading.load_tokenizer(gemma)
    cut, _ = windows.load_windows("wiki-mini", tokenizer, SEQLEN, 3, None, bos="auto", spread=True)
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(gemma)(cut).logits[:, :-1].flatten(0, 1)

    (reading,) = record.readings
    wanted = math.exp(cross_entropy(logits, cut[:, 1:].flatten()))
    assert reading.value == pytest.approx(wanted, rel=1e-4)
    assert record.token_digest == windows.token_digest(cut)
    assert record.identity.protocol.label == "wiki-mini@32x3 spread with BOS"
    assert names["agreement"]["protocol"] == "wiki-mini@32x3 spread with BOS"
    assert names["agreement"]["calibration"] == "wiki-mini@32x4 with BOS"
    assert [m.key for m in own] == [m.key for m in forced]
    assert {m.key for m in own}.isdisjoint(m.key for m in papers)
    assert papers[0].identity.protocol.label == "wiki-mini@32x3 spread"
    assert papers[0].identity.calibration.label == "wiki-mini@32x4"


RULES = [("auto", True, ""), ("always", True, ""), ("never", True, "never")]


@pytest.mark.parametrize(
    ("rule", "adds", "said"), [*RULES, ("always", False, "always"), ("never", False, "")]
)
def test_a_command_names_the_rule_where_it_matters(gemma, rule, adds, said):
    one = next(m for m in planned(gemma if adds else "tiny", bos=rule) if m.measure == "perplexity")
    words = reproduce.command([new_record(one, status="ok")])
    assert (f"--set bos={said}" in words) if said else ("bos" not in words)


def test_a_tokenizer_without_bos_moves_no_key():
    """Keys and identities have the rule only if it changes a token."""
    wanted = {"methods": ("wanda", "retrain")}
    wanted["training"] = {"tokens": 2048, "batch": 2, "seqlen": 32}
    auto, never = (planned("tiny", bos=rule, **wanted) for rule in ("auto", "never"))
    inputs = [one.key_inputs() for one in auto]
    assert inputs == [one.key_inputs() for one in never] and '"bos"' not in json.dumps(inputs)


def test_a_bos_that_does_not_exist_is_refused_before_a_run(tmp_path):
    folder = runs.tiny(tmp_path / "tiny")
    about = json.loads((folder / "tokenizer_config.json").read_text())
    del about["bos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match="bos=always needs a BOS token"):
        planned(folder, bos="always")
