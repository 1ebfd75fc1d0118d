"""Models of each family as ONNX: the same logits and the same greedy text in onnxruntime."""

import json
import shutil
import types

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from baselines.magnitude import Magnitude
from bench.formats.writing import export_model
from bench.inputs import loading
from bench.parts.onnx import onnx_file, onnx_model
from bench.parts.onnx.onnx_file import OnnxFile
from bench.verify import CheckFailed
from helpers import runs
from helpers.models import CONFIGS, build, job_for, write
from methods.contract.errors import UserError
from methods.contract.method import Compute
from methods.contract.pattern import Pattern
from methods.model.families import FAMILIES as FAMILIES_TAUGHT

MIXTURES = [name for name in CONFIGS if FAMILIES_TAUGHT[name].experts]
FAMILIES = [
    name
    if name == "llama"
    else pytest.param(name, marks=pytest.mark.full if name == "gpt2" else pytest.mark.slow)
    for name in CONFIGS
    if name not in MIXTURES
]
NEW_TOKENS = 32


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """exported(family) -> a random 2:4 model's folder, and that of its export in float32."""
    made = {}

    def export(family):
        if family not in made:
            root = tmp_path_factory.mktemp(family)
            model = build(family)
            if family == "llama":  # a third layer takes seconds to export
                del model.model.layers[2:]
                model.config.num_hidden_layers = 2
            Magnitude().apply(model, job_for(model, "2:4"))
            source = write(model, root / "source")
            made[family] = source, root / "onnx", export_model(str(source), "onnx", root / "onnx")
        return made[family]

    return export


def start(folder):
    return onnxruntime.InferenceSession(
        str(folder / "model.onnx"), providers=["CPUExecutionProvider"]
    )


def decode(session, prompt, count):
    """Greedy tokens after a prompt [batch, tokens], each from the cache that the one before
    left."""
    inputs = {value.name: value for value in session.get_inputs()}
    outputs = [value.name for value in session.get_outputs()]
    batch, past = prompt.shape[0], 0
    cache = {
        name: np.zeros([batch, value.shape[1], 0, value.shape[3]], np.float32)
        for name, value in inputs.items()
        if name.startswith("past_key_values.")
    }
    ids, text = prompt, []
    for _ in range(count):
        past += ids.shape[1]
        feed = {
            "input_ids": ids,
            "attention_mask": np.ones((batch, past), np.int64),
            "position_ids": np.tile(np.arange(past - ids.shape[1], past), (batch, 1)),
        }
        found = dict(zip(outputs, session.run(None, feed | cache), strict=True))
        ids = found["logits"][:, -1:].argmax(-1)
        text.append(ids)
        cache = {name: found[name.replace("past_key_values", "present")] for name in cache}
    return np.concatenate(text, 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_text_is_the_same(exported, family):
    source, out, _ = exported(family)
    model = loading.load(source, Compute())
    prompt = torch.randint(64, (2, 7), generator=torch.Generator().manual_seed(3))
    ids = prompt
    for _ in range(NEW_TOKENS):
        ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)

    assert np.array_equal(decode(start(out), prompt.numpy(), NEW_TOKENS), ids[:, 7:].numpy())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_target_is_in_the_file_by_its_name_and_holds_the_pattern(exported, family):
    source, out, sentence = exported(family)
    model = loading.load(source, Compute())
    targets = job_for(model, "2:4").targets
    file = OnnxFile(out / "model.onnx")

    assert [linear.name for linear in file.targets()] == list(targets)
    assert f"2:4 in {len(targets)} linears" in sentence
    for linear in file.targets():
        assert torch.equal(file.weight(linear), model.get_submodule(linear.name).weight), (
            linear.name
        )


def test_the_layout_is_optimums(exported):
    _, out, _ = exported("llama")
    session = start(out)
    shapes = {value.name: value.shape for value in (*session.get_inputs(), *session.get_outputs())}

    assert shapes["input_ids"] == shapes["position_ids"] == ["batch_size", "sequence_length"]
    assert shapes["logits"] == ["batch_size", "sequence_length", 64]
    for i in range(2):
        for kind in ("key", "value"):
            found = shapes[f"past_key_values.{i}.{kind}"]
            assert found == ["batch_size", 2, "past_sequence_length", 8]
            assert shapes[f"present.{i}.{kind}"][1::2] == [2, 8]
    model = onnx.load(out / "model.onnx")
    assert (model.producer_name, model.opset_import[0].version) == ("cast-bench", onnx_model.OPSET)
    assert json.loads((out / "config.json").read_text())["model_type"] == "llama"
    assert {node.op_type for node in model.graph.node}.isdisjoint(
        {"QuantizeLinear", "DequantizeLinear"}
    )


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        pytest.param("float16", "FLOAT16", marks=pytest.mark.full),
        pytest.param("bfloat16", "BFLOAT16", marks=pytest.mark.slow),
    ],
)
def test_a_dtype_is_that_of_every_weight_and_the_tokenizer_goes_along(tmp_path, dtype, kind):
    sentence = export_model(str(runs.tiny(tmp_path / "m")), "onnx", tmp_path / "out", dtype=dtype)
    file = OnnxFile(tmp_path / "out/model.onnx")
    wanted = onnx.TensorProto.DataType.Value(kind)

    assert {t.data_type for t in file.model.graph.initializer if len(t.dims) == 2} == {wanted}
    assert f"opset {onnx_model.OPSET}, {dtype}" in sentence
    assert ("logits not compared: onnxruntime has no bfloat16 on a CPU" in sentence) == (
        dtype == "bfloat16"
    )
    found = {p.name for p in (tmp_path / "out").iterdir()}
    assert found >= {"model.onnx", "tokenizer.json", "config.json"}


@pytest.mark.full
def test_weights_that_protobuf_cannot_hold_lie_beside_the_graph(exported, tmp_path, monkeypatch):
    """As of 1.5 GB in an export and of 2 GB where weights are replaced: here, of all."""
    source, small, _ = exported("llama")
    monkeypatch.setattr("torch.onnx._internal.exporter._onnx_program._LARGE_MODEL_THRESHOLD", 0)
    monkeypatch.setattr(onnx_file, "MAX_INLINE_BYTES", 0)
    export_model(str(source), "onnx", tmp_path / "onnx")
    large, other = tmp_path / "onnx/model.onnx", tmp_path / "other.onnx"
    onnx_file.replace_weights(
        large, other, lambda name: OnnxFile(large).weight(_linear(large, name)) * 2
    )

    assert {"model.onnx", "model.onnx.data"} <= {p.name for p in (tmp_path / "onnx").iterdir()}
    assert other.with_name("other.onnx.data").exists()
    for linear in OnnxFile(small / "model.onnx").targets():
        weight = OnnxFile(small / "model.onnx").weight(linear)
        assert torch.equal(OnnxFile(large).weight(_linear(large, linear.name)), weight)
        assert torch.equal(OnnxFile(other).weight(_linear(other, linear.name)), weight * 2)
    prompt = np.arange(7)[None]
    assert np.array_equal(
        decode(start(tmp_path / "onnx"), prompt, 4), decode(start(small), prompt, 4)
    )


def _linear(path, name):
    return next(linear for linear in OnnxFile(path).targets() if linear.name == name)


class Renamed(torch.nn.Module):
    """A model as transformers has it since 5.24."""

    name = "cache"

    def forward(self, input_ids, attention_mask, position_ids, use_cache, cache=None):
        return types.SimpleNamespace(logits=position_ids, **{self.name: cache})


class Former(Renamed):
    name = "past_key_values"

    def forward(self, input_ids, attention_mask, position_ids, use_cache, past_key_values=None):
        return super().forward(input_ids, attention_mask, position_ids, use_cache, past_key_values)


@pytest.mark.parametrize("model", [Renamed, Former])
def test_a_cache_goes_by_the_name_that_the_model_has_for_it(model):
    past = [torch.randn(1, 2, 5, 8) for _ in range(4)]
    ids = torch.zeros(1, 1)
    _, *got = onnx_model.Flat(model())(ids, ids, ids, past)

    assert all(torch.equal(a, b) for a, b in zip(got, past, strict=True))


def test_a_file_that_is_not_the_model_is_refused(exported, tmp_path, monkeypatch):
    source, out, _ = exported("llama")
    other = shutil.copytree(source, tmp_path / "m")
    model = loading.load(source, Compute())
    model.lm_head.weight.data *= 1.01
    write(model, other)
    monkeypatch.setattr(
        onnx_model, "_export", lambda model, cache, path: shutil.copy(out / "model.onnx", path)
    )
    with pytest.raises(CheckFailed, match=r"^logits of the ONNX file differ from the model's by"):
        export_model(str(other), "onnx", tmp_path / "out")
    with pytest.raises(CheckFailed, match=r"^1:4 does not hold in 4,608 groups of the ONNX file$"):
        onnx_model.write(source, tmp_path, None, Pattern.parse("1:4"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("family", MIXTURES[:1])
def test_a_mixture_of_experts_is_a_sentence(tmp_path, family):
    source = str(write(build(family), tmp_path / "m"))
    with pytest.raises(
        UserError, match=rf"^a mixture of experts \({family}\) cannot be exported to ONNX"
    ):
        export_model(source, "onnx", tmp_path / "out")


def test_what_a_file_cannot_say_is_refused(tmp_path):
    source = str(write(build("llama"), tmp_path / "m"))
    config = json.loads((tmp_path / "m/config.json").read_text())
    rounding = {onnx_model.ACTIVATIONS_KEY: {"bits": 8, "targets": ["model.layers.0.mlp.up_proj"]}}
    (tmp_path / "m/config.json").write_text(json.dumps(config | rounding))
    with pytest.raises(UserError, match="rounds inputs, keys or values"):
        export_model(source, "onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()
