"""Training text: the sequences of a step, and texts that are too short or damaged."""

import gzip
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bench.inputs import corpora, training_text
from bench.inputs.training_text import PackedCorpus
from methods.contract.errors import UserError


class Letters:
    """A tokenizer with a token for each letter."""

    eos_token_id = 0

    def __len__(self):
        return 256

    def __call__(self, texts, add_special_tokens):
        assert add_special_tokens is False
        return {"input_ids": [[ord(c) % 256 for c in t] for t in texts]}


pytestmark = pytest.mark.usefixtures("cache")


def load(name, tokenizer=None, **changes):
    given = {"need": 1000, "seqlen": 8, "sequences": 2, "seed": 0, "data_dir": None} | changes
    return training_text.load(str(name), tokenizer or Letters(), "identity", **given)


def packed(tokens=100, seqlen=8, sequences=3, seed=0):
    return PackedCorpus(np.arange(tokens, dtype=np.uint16), seqlen, sequences, seed)


def test_an_epoch_sees_every_sequence_once():
    corpus = packed()
    steps = 100 // 8 // 3  # 4 of 3 sequences, one a shift's worth short
    rows = torch.cat([corpus.batch(k) for k in range(steps)])[:11]
    starts = rows[:, 0]
    assert (rows == starts[:, None] + torch.arange(8)).all()
    shift = int(starts.min()) % 8
    assert len(set(starts.tolist())) == 11
    assert all(s % 8 == shift for s in starts.tolist())


def test_epochs_differ():
    corpus = packed(seqlen=5, sequences=19)
    assert not torch.equal(corpus.batch(0), corpus.batch(1))
    assert len({int(corpus.batch(epoch)[:, 0].min()) for epoch in range(6)}) > 1  # shifts


def test_a_step_is_the_same_whenever_it_is_asked_for():
    corpus, again = packed(), packed()
    late = corpus.batch(17)
    assert torch.equal(late, again.batch(17))
    assert torch.equal(corpus.batch(0), again.batch(0))
    assert not torch.equal(packed(seed=1).batch(0), corpus.batch(0))


def test_ranks_share_a_step():
    corpus = packed(sequences=4)
    parts = [corpus.batch(3, rank, 2) for rank in range(2)]
    assert torch.equal(torch.cat(parts), corpus.batch(3))


def test_digest_names_tokens_and_order():
    others = packed(seed=1), packed(tokens=99), packed(sequences=2)
    assert packed().digest == packed().digest
    assert len({corpus.digest for corpus in (packed(), *others)}) == 4


def test_documents_stand_in_a_row_each_closed(tmp_path):
    (tmp_path / "a.txt").write_text("ab" * 400)
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in ("xy", "z")))
    corpus, held = load(tmp_path / "a.txt")
    assert corpus.ids.tolist() == ([97, 98] * 400 + [0])[: len(corpus.ids)]
    assert held.shape == (64, 8) and held[-1, -1] == 0
    assert len(corpus.ids) == 801 - 64 * 8
    with pytest.raises(UserError, match="has 0 tokens to train on and one step takes 2 x 8"):
        load(tmp_path / "b.jsonl")
    assert list(training_text._texts(str(tmp_path / "b.jsonl"), "training", None)) == ["xy", "z"]


def test_no_more_is_read_than_needed(tmp_path, monkeypatch):
    monkeypatch.setattr(training_text, "MAX_VALIDATION_WINDOWS", 5)
    (tmp_path / "a.txt").write_text("ab" * 40000)
    corpus, held = load(tmp_path / "a.txt", need=1000)
    assert len(corpus.ids) == 1000 + 8 and len(held) == 5


def test_held_out_is_never_trained_on(tmp_path):
    (tmp_path / "a.txt").write_text("".join(chr(1 + k % 250) for k in range(5000)))
    corpus, held = load(tmp_path / "a.txt", need=10**6)
    assert len(corpus.ids) + held.size <= 5001
    assert corpus.ids.tolist()[-1] + 1 == held[0, 0]


def test_a_second_reading_needs_no_text(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("ab" * 4000)
    one, _ = load(file)
    file.write_text("cd" * 4000)
    two, _ = load(file)
    assert one.digest == two.digest  # what identifies the text is the plan's to say


def test_a_mirror_is_streamed(tmp_path):
    folder = tmp_path / "mirror/allenai/c4/en"
    folder.mkdir(parents=True)
    for shard, text in enumerate(("ab" * 300, "cd" * 300)):
        with gzip.open(folder / f"c4-train.0000{shard}-of-01024.json.gz", "wt") as file:
            file.write(json.dumps({"text": text, "url": "", "timestamp": ""}) + "\n")
    corpus, _ = load("c4", data_dir=tmp_path / "mirror", need=10**6)
    assert corpus.ids[:4].tolist() == [97, 98, 97, 98]
    assert training_text.content_digest("c4", tmp_path / "mirror")


def test_a_hub_is_streamed_at_one_revision_and_no_further_than_needed(monkeypatch):
    asked, read = [], []

    def load_dataset(path, **how):
        asked.append((path, how))
        for _ in range(1000):
            read.append(1)
            yield {"text": "ab" * 50}

    info = SimpleNamespace(sha="f00d", siblings=[])
    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: info)
    monkeypatch.setattr(training_text, "BATCH_DOCUMENTS", 8)
    corpus, _ = load("c4", data_dir=None, need=1000)

    path, how = asked[0]
    assert (path, how["revision"], how["split"]) == ("allenai/c4", "f00d", "train")
    assert how["streaming"] and "trust_remote_code" not in how
    assert corpus.ids[:4].tolist() == [97, 98, 97, 98]
    assert len(read) < 40
    assert training_text.content_digest("c4", None) == "f00d"


def test_without_a_mirror_or_a_hub(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"training corpus c4 \(allenai/c4\) is not in .*, and "):
        training_text.content_digest("c4", None)
    with pytest.raises(UserError, match="unknown corpus 'c5'"):
        training_text.content_digest("c5", None)


def test_a_tokenizer_without_an_end(tmp_path):
    (tmp_path / "a.txt").write_text("ab")
    endless = Letters()
    endless.eos_token_id = None
    with pytest.raises(UserError, match="no end-of-text token"):
        load(tmp_path / "a.txt", endless)


def test_tokens_are_written_a_piece_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(training_text, "PIECE", 7)
    tokens = np.arange(40, dtype=np.uint16)
    with (tmp_path / "pieces.npy").open("wb") as stream:
        training_text._write_tokens(stream, iter(tokens.tolist()), tokens.dtype)
    np.save(tmp_path / "whole.npy", tokens)
    assert (tmp_path / "pieces.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_processes_that_cannot_share_a_step_are_refused():
    with pytest.raises(ValueError, match="2 processes cannot share a step of 3 sequences"):
        packed().batch(0, 0, 2)


def test_the_file_for_calibration_is_no_training_text(tmp_path):
    folder = tmp_path / "allenai/c4/en"
    folder.mkdir(parents=True)
    (folder / "c4-train.00000-of-01024.json.gz").touch()
    assert corpora.files("c4", "calibration", tmp_path)
    assert not corpora.files("c4", "training", tmp_path)
    (folder / "c4-train.00001-of-01024.json.gz").touch()
    assert len(corpora.files("c4", "training", tmp_path)) == 2
