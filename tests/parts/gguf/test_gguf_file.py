"""GGUF files without vocabulary, as engines are timed with."""

import pytest
import torch

from bench.inputs import loading
from bench.parts.gguf import gguf_file
from helpers.models import build, write
from methods.contract.errors import UserError
from methods.contract.method import Compute


@pytest.mark.parametrize("kind", gguf_file.WRITTEN_TYPES)
def test_a_file_is_the_model(tmp_path, kind):
    """As transformers reads it: rounding of the weights is all that is lost, whatever the heads."""
    from transformers import AutoModelForCausalLM

    folder = write(build("llama"), tmp_path / "m")
    gguf_file.write(folder, tmp_path / "x.gguf", kind)
    ids = torch.randint(64, (1, 9), generator=torch.Generator().manual_seed(0))
    got = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="x.gguf", dtype=torch.float32)(
        ids
    ).logits
    expected = loading.load(folder, Compute())(ids).logits
    found = (got - expected).abs().max() / expected.abs().max()
    assert found < {"f16": 2e-3, "q8_0": 3e-2, "q4_0": 0.4}[kind]


def test_what_the_format_is_not_written_for_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match="of the family gpt2, and only llama is written as GGUF"):
        gguf_file.write(write(build("gpt2"), tmp_path / "a"), tmp_path / "x.gguf", "fp16")
    scaled = write(build("llama"), tmp_path / "b")
    text = (
        (scaled / "config.json")
        .read_text()
        .replace('"rope_type": "default"', '"rope_type": "linear", "factor": 2.0')
    )
    (scaled / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"scales its rotary embedding \(linear\)"):
        gguf_file.write(scaled, tmp_path / "x.gguf", "fp16")
