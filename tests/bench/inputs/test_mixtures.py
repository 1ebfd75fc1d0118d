"""Mixtures of corpora, and sequences cut from their documents."""

import numpy as np
import pytest

import bench
from bench.inputs import mixtures, training_text, windows
from methods.contract.errors import UserError

END = 0


class Words:
    """A tokenizer with a token for each word, which is a number."""

    eos_token_id = END

    def __call__(self, texts, **options):
        return {"input_ids": [encode(text) for text in texts]}

    def __len__(self):
        return 10**6


def encode(text):
    return [int(word) for word in text.split()]


@pytest.fixture
def texts(tmp_path):
    """Two files with 20 documents each of 10 numbers that rise by 1: from 1000, and from 500000."""
    for name, first in (("a", 1000), ("b", 500_000)):
        lines = []
        for i in range(20):
            numbers = range(first + 100 * i, first + 100 * i + 10)
            lines.append(f'{{"text": "{" ".join(map(str, numbers))}"}}\n')
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    return f"{tmp_path}/a.jsonl", f"{tmp_path}/b.jsonl"


def draw(name, count, seqlen, packing="crops", first=()):
    maker = windows.Maker(Words(), None, None, None)
    return windows.draw_calibration(
        name, count, seqlen, 0, encode, None, first, maker=maker, packing=packing
    )


def test_shares(texts):
    one, two = texts
    assert mixtures.shares_of(f"{one}:0.25,{two}:.75") == {one: 0.25, two: 0.75}
    assert mixtures.shares_of(one) == {one: 1.0}
    assert mixtures.divide({"a": 0.5, "b": 0.25, "c": 0.25}, 7) == {"a": 3, "b": 2, "c": 2}
    assert mixtures.divide({"a": 0.7, "b": 0.3}, 10) == {"a": 7, "b": 3}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wiki:0.5,code:0.4", "the shares of mixture wiki:0.5,code:0.4 sum to 0.9: give positive "),
        ("wiki:0.5,wiki:0.5", "names a corpus twice"),
        ("wiki:0.5,cod:0.5", "unknown corpus 'cod': did you mean code"),
    ],
)
def test_wrong_mixtures(name, said):
    with pytest.raises(UserError, match=said):
        bench.plan(bench.Spec(methods=["sparsegpt"], calibration={"data": name}))


def test_a_mixture_is_for_calibration_and_training():
    with pytest.raises(UserError, match="is a mixture, which calibrates and trains"):
        bench.plan(bench.Spec(perplexity={"data": "wiki:0.5,code:0.5"}))


def test_sequences_of_a_mixture(texts):
    drawn = draw(f"{texts[0]}:0.25,{texts[1]}:0.75", 8, 6, first=(7,))
    assert [len(one) for one in drawn] == [6] * 8
    assert {one[0] for one in drawn} == {7}
    of_second = [one[1] >= 500_000 for one in drawn]
    assert sum(of_second) == 6
    assert of_second != sorted(of_second)  # in random order


def test_starts_begin_with_documents(texts):
    for one in draw(texts[0], 12, 25, "starts"):
        assert one[0] % 100 == 0
        assert one[10] == one[21] == END
        assert one[11] % 100 == 0


def test_a_stream_uses_each_token_once(texts):
    drawn = draw(texts[0], 10, 20, "stream")
    tokens = [token for one in drawn for token in one if token != END]
    assert len(tokens) == len(set(tokens))
    assert sum(one.count(END) for one in drawn) == 200 // 11


def test_short_documents_need_packing(texts):
    with pytest.raises(UserError, match=r"calibration\.packing=starts"):
        draw(texts[0], 1, 25)


def test_training_text_has_the_shares(texts, monkeypatch, tmp_path):
    monkeypatch.setenv("CAST_BENCH_CACHE", str(tmp_path / "cast-bench"))
    monkeypatch.setattr(training_text, "HELD_OUT_SEQUENCES", 4)
    about = {"need": 400, "seqlen": 10, "sequences": 4, "seed": 0, "data_dir": None}
    name = f"{texts[0]}:0.25,{texts[1]}:0.75"
    corpus, validation = training_text.load(name, Words(), "identity", **about)
    for ids in (corpus.ids, validation):
        of_second = (np.asarray(ids) >= 500_000).sum() / (np.asarray(ids) != END).sum()
        assert of_second == pytest.approx(0.75, abs=0.03)


def test_each_text_of_a_list_calibrates(texts):
    spec = bench.Spec(
        methods=["wanda"], quantizers=["none"], measures=["size"], seeds=[0, 1],
        calibration={"data": [texts[0], "wiki-mini"], "seqlen": 8, "sequences": 4},
    )  # fmt: skip
    artifacts = [m.artifact for m in bench.plan(spec).measurements if m.measure == "size"]
    made = {(a.calibration and a.calibration.data, a.seed) for a in artifacts}
    assert made == {(None, None)} | {(n, s) for n in (texts[0], "wiki-mini") for s in (0, 1)}
    assert len({a.key for a in artifacts}) == len(artifacts)
