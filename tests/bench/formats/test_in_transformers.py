"""A stored folder in transformers: its logits are those that were measured."""

import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

import bench
from helpers import runs
from methods.contract.errors import UserError
from methods.model.folder import Folder


@pytest.fixture
def stored(tmp_path, output, monkeypatch):
    """Write tiny in 4 bits with an int8 embedding, to which the head is tied, dense and stored."""
    runs.workers_here(monkeypatch)
    common = ("--model", runs.TINY, "--method", "dense")
    output("prune", *common, "--quant", "int4-rtn:embed=int8", "--out", tmp_path / "dense")
    output("export", tmp_path / "dense", "--format", "stored", "--out", tmp_path / "stored")
    return tmp_path


@pytest.mark.parts("exports")
def test_the_logits_are_those_of_the_dense_folder_or_there_is_a_sentence(stored, caplog):
    tokens = torch.arange(3, 40)[None]
    expected = AutoModelForCausalLM.from_pretrained(stored / "dense", dtype="auto")(tokens).logits

    model = bench.load(stored / "stored")

    assert torch.equal(model(tokens).logits, expected)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert "model.embed_tokens.weight" not in Folder(stored / "stored")
    assert not [r for r in caplog.records if r.levelname == "WARNING"]
    assert bench.load(stored / "stored", dtype=torch.bfloat16).dtype == torch.bfloat16

    shutil.rmtree(stored / "stored/stored")
    with pytest.raises(UserError, match="is no folder with stored weights"):
        bench.load(stored / "stored")
