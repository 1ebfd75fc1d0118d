"""Damaged GGUF files end in one sentence, before conversion if the header shows the damage."""

import os

import pytest

from bench.inputs import download, gguf_header, models
from helpers import gguf_files
from helpers.limits import limits
from methods.contract.errors import UserError

pytestmark = pytest.mark.usefixtures("cache", "in_tmp_path")


@pytest.mark.parametrize("name", gguf_files.DAMAGES)
def test_a_damaged_file_is_a_sentence_before_it_is_converted(tmp_path, name):
    file = tmp_path / "x.gguf"
    file.write_bytes(b"")
    gguf_files.DAMAGES[name](file)
    sentence = r"x\.gguf as GGUF \(.+\): download it again"
    with limits(), pytest.raises(UserError, match=sentence) as fault:
        models.resolve(str(file))
    assert len(str(fault.value).splitlines()) == 1 and len(str(fault.value)) < 700


@pytest.mark.parametrize("name", gguf_files.LATE_DAMAGES)
def test_what_a_header_does_not_tell_is_a_sentence_too(tmp_path, name):
    """transformers would fill a missing norm with ones."""
    file = tmp_path / "x.gguf"
    gguf_files.LATE_DAMAGES[name](file)
    with pytest.raises(UserError, match=r"x\.gguf") as fault:
        download.pull(str(file))
    assert len(str(fault.value).splitlines()) == 1
    assert not any((tmp_path / "cache/models").iterdir())


def test_a_pipe_is_not_waited_for(cli, tmp_path):
    os.mkfifo(tmp_path / "x.gguf")
    with limits():
        code, _, err = cli("plan", "--model", "x.gguf")
    assert code == 2 and "not a regular file" in err


def test_undamaged_it_is_a_model(tmp_path):
    folder = tmp_path / ("a" * 200) / ("b" * 200)  # a path is part of the name in the cache
    folder.mkdir(parents=True)
    file = gguf_files.write(folder / "x.gguf")
    assert models.resolve(str(file)) is None  # to be pulled
    opened = download.pull(str(file)).open()
    size = (len(gguf_files.TOKENS), gguf_files.HIDDEN)
    assert opened.shapes()["model.embed_tokens.weight"] == size


def test_what_a_header_may_claim_is_bounded(tmp_path, monkeypatch):
    """Libraries make objects of each element."""
    file = gguf_files.write(tmp_path / "x.gguf")
    gguf_header.read(file)
    monkeypatch.setattr(gguf_header, "MAX_ELEMENTS", 50)
    with pytest.raises(UserError, match="more than 50 fields, tensors and elements"):
        gguf_header.read(file)
