"""One text in several languages, and its bits per byte."""

import math
from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer, decoders, models

from bench.inputs import loading, windows
from bench.measures.perplexity import Perplexity
from bench.measures.windowed import read_together
from bench.parts.sources import packages, parallel, text_bits
from helpers import runs
from helpers.measuring import context_of
from methods.contract.errors import UserError
from methods.contract.method import Compute

TEXT = "Grüße: 漢字 😀 and code() {\n\n  return 1\n}\n\n" * 3


@pytest.fixture(scope="module")
def tokenizer():
    return loading.load_tokenizer(runs.TINY)


@pytest.mark.usefixtures("cache")  # the user's may have the text
def test_documents_are_the_whole_text(tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "PARAGRAPHS", 2)
    with pytest.raises(UserError, match="run bench pull languages-de"):
        parallel.GERMAN.documents("evaluation", tmp_path, None)
    file = tmp_path / packages.FOLDER / "languages-de.txt"
    file.parent.mkdir()
    file.write_text(TEXT, encoding="utf-8")
    found = parallel.GERMAN.documents("evaluation", tmp_path, None)
    assert len(found) == 4
    assert parallel.GERMAN.joiner.join(found) == TEXT


def test_bytes_of_a_byte_level_vocabulary(tokenizer):
    tokens = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    lengths = text_bits.bytes_of(tokens, tokenizer)
    assert sum(lengths[token] for token in tokens) == len(TEXT.encode())


def test_bytes_of_a_vocabulary_with_marks_of_spaces():
    vocabulary = {"▁und": 0, "<0x0A>": 1, "漢": 2, "<end>": 3, "Ġ": 4}
    rust = Tokenizer(models.BPE(vocabulary, []))
    rust.decoder = decoders.ByteFallback()
    tokenizer = SimpleNamespace(
        backend_tokenizer=rust,
        added_tokens_decoder={3: "<end>"},
        convert_ids_to_tokens=list(vocabulary).__getitem__,
    )
    assert text_bits.bytes_of(range(5), tokenizer) == {0: 4, 1: 1, 2: 3, 3: 5, 4: 2}


def test_bits_are_those_of_perplexity(tokenizer):
    """One pass has both. Few windows of one length, so bits over bytes follow from perplexity."""
    model = loading.load(runs.TINY, Compute())
    context = context_of(None, is_dense=True, tokenizer=lambda: tokenizer)
    kinds = (Perplexity, text_bits.TextBits)
    asked = [(kind("wiki-mini", 64, windows=3), context) for kind in kinds]
    perplexity, bits = (part.readings.values for part in read_together(asked, lambda: model))
    tokens, _ = windows.load_windows("wiki-mini", tokenizer, 64, 3, None)
    size = sum(len(tokenizer.decode(window[1:]).encode()) for window in tokens)
    per_byte = {reading.metric: reading.value for reading in bits}
    assert per_byte["tokens_per_byte"] == pytest.approx(3 * 63 / size)
    expected = math.log2(perplexity[0].value) * 3 * 63 / size
    assert per_byte["text_bits_per_byte"] == pytest.approx(expected)
