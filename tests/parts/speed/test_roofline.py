"""Modelled limits: derived here once more from the numbers themselves."""

import inspect
import json
from collections import Counter

import pytest

from bench.inputs.datasheets import device_specs
from bench.parts.speed import roofline
from bench.parts.speed.command import speed
from helpers.runs import TINY

H100 = device_specs()["h100"]


def test_llama2_7b_decodes_at_most_1_75_times_as_fast():
    of = roofline.model_sizes("llama2-7b")
    linears = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    assert sum(o * i * n for (o, i), n in of.linears.items()) == linears
    assert of.weights == roofline.Weights(linears)
    head, kv = 32000 * 4096, 2 * 32 * 4096
    assert (of.head, of.cached) == (head, kv)
    for batch, length, limit in ((1, 0, 1.75), (64, 2048, 1.07)):
        rest = 2 * (head + batch * length * kv)
        found = roofline.decode_limit(of, batch, length, "bf16", H100)
        assert found == pytest.approx((2 * linears + rest) / (2 * linears * 9 / 16 + rest))
        assert round(found, 2) == limit


def test_the_head_counts_for_the_tokens_whose_logits_are_made():
    """A prompt has one row of them. Its weights are read once in any case."""
    of = roofline.model_sizes("llama2-7b")
    (dense, sparse), (whole, _) = (
        roofline.step_costs(of, 512, 512, 16, 9, predicted=n) for n in (1, None)
    )
    flops = 2 * 512 * of.weights.per_token
    assert (dense[0], sparse[0]) == (flops + 2 * of.head, flops / 2 + 2 * of.head)
    assert whole == (flops + 2 * 512 * of.head, dense[1])


def test_a_kind_has_the_peak_of_its_own_instructions():
    """Check every datasheet, and one product of int8 and fp8 from the numbers themselves."""
    for name, card in device_specs().items():
        assert card.source.startswith("https://") and 0 < card.tbps < 10, name
        assert card.peak("int4") == card.tflops["bf16"]
        assert card.peak("fp16") == (65.0 if name == "t4" else card.tflops["bf16"])
        assert card.peak("int8") == card.tflops["int8"] >= 1.99 * card.tflops["bf16"]
        assert card.peak("fp8") in (card.tflops.get("fp8"), card.tflops["bf16"])
    out, width, tokens = 11008, 4096, 400
    seconds = (
        2 * tokens * out * width / 1978.9e12,
        (out * width + tokens * (width + 2 * out)) / 3.35e12,
    )
    sparse = seconds[0] / 2, (out * width * 5 / 8 + tokens * (width + 2 * out)) / 3.35e12
    for kind in ("int8", "fp8"):
        found = roofline.shape_limit(out, width, tokens, kind, H100)
        assert found == pytest.approx(max(seconds) / max(sparse))


@pytest.mark.parametrize(
    ("kind", "limit"), [("bf16", 16 / 9), ("int8", 1.6), ("fp8", 1.6), ("int4", 4 / 3)]
)
def test_bytes_bound_one_token_and_arithmetic_bounds_many(kind, limit):
    assert roofline.shape_limit(11008, 4096, 1, kind, H100) == pytest.approx(limit, rel=2e-3)
    assert roofline.shape_limit(11008, 4096, 8192, kind, H100) == pytest.approx(2)
    for tokens in (1, 16, 64, 300, 512, 8192):
        assert 1 <= roofline.shape_limit(4096, 4096, tokens, kind, H100) <= 2


def test_grouped_queries_and_models_that_are_here():
    assert roofline.model_sizes("llama3-8b").cached == 2 * 32 * 8 * 128
    assert roofline.model_sizes("llama3-8b").linears[1024, 4096] == 64
    of = roofline.model_sizes("tiny")
    config = json.loads((TINY / "config.json").read_text())
    hidden, inner, layers = (config["hidden_size"], config["intermediate_size"],
                             config["num_hidden_layers"])  # fmt: skip
    keys = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    each = [(hidden, hidden)] * 2 + [(keys, hidden)] * 2 + [(inner, hidden)] * 2 + [(hidden, inner)]
    assert of.linears == Counter(each * layers) and of.head == config["vocab_size"] * hidden


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss"])
def test_a_token_goes_through_a_share_of_the_experts(make, keep_as, tmp_path, family):
    """A step of many tokens reads nearly all of them, and computes with no more of them per
    token."""
    model = make(family)
    experts, chosen = model.config.num_local_experts, model.config.num_experts_per_tok
    of = roofline.model_sizes(str(keep_as(model, tmp_path / family)))
    inside = sum(
        w.numel() for name, w in model.named_parameters() if ".experts." in name and w.dim() == 2
    )
    total = sum(o * i * n for (o, i), n in of.linears.items())
    assert 0 < inside < total and chosen < experts
    assert of.weights.per_token == pytest.approx(total - inside + inside * chosen / experts)
    assert of.weights.read_for(1) == pytest.approx(of.weights.per_token)
    assert of.weights.read_for(2) == pytest.approx(total - inside * (1 - chosen / experts) ** 2)
    assert of.weights.read_for(10_000) == pytest.approx(total)


def test_the_command_marks_every_row_as_a_model(cli):
    code, out, _ = cli("speed", "--model", "llama2-7b", "--device-spec", "h100", "--json")
    rows = json.loads(out)
    assert code == 0 and {r["kind"] for r in rows} == {"model"}
    assert any(
        r["what"].startswith("11008 x 4096") and r["tokens"] == 1 and r["bf16_at_most"] == 1.78
        for r in rows
    )
    assert [
        r["bf16_at_most"] for r in rows if (r["tokens"], r["kv_tokens_each"]) == (64, 2048)
    ] == [1.07]


def test_the_help_names_every_card():
    parameter = inspect.signature(speed, eval_str=True).parameters["device_spec"]
    (option,) = parameter.annotation.__metadata__
    listed = option.help.partition(": ")[2].rstrip(".").split(", ")
    assert sorted(listed) == sorted(device_specs())
