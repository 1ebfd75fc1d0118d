"""Model folders: every name read as the model means it, and nothing read that should not be."""

import json

import pytest
import torch
from safetensors.torch import save_file

from bench.inputs import loading
from helpers.models import SIZES
from methods.contract.errors import UserError
from methods.contract.method import Compute
from methods.model.experts import fold
from methods.model.families import FAMILIES
from methods.model.folder import INDEX, Folder, Writer, save, state
from methods.model.targets import find_targets


@pytest.fixture
def home(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    return tmp_path


def test_what_is_written_is_read(family, make, keep_as, tmp_path):
    model = make(family)

    opened = Folder(keep_as(model, tmp_path / "m"))

    want = state(model)
    assert set(opened) == set(want)
    assert opened.shapes() == {name: tuple(tensor.shape) for name, tensor in want.items()}
    assert all(torch.equal(opened.tensor(name), tensor) for name, tensor in want.items())
    again = loading.load(tmp_path / "m", Compute())
    assert all(
        torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items()
    )


def test_a_target_is_out_by_in_however_it_is_stored(family, make, keep_as, tmp_path):
    model = make(family)
    opened = Folder(keep_as(model, tmp_path / "m"))
    for target in find_targets(opened.config, opened.shapes()):
        linear, weight = model.get_submodule(target), opened.weight(target)
        inputs = torch.eye(weight.shape[1])
        torch.testing.assert_close(linear(inputs) - linear(torch.zeros_like(inputs)), weight.T)


@pytest.mark.parametrize("kind", ["gpt2", "opt", "gpt_neox"])
def test_names_without_the_base_prefix_are_read_in_full(kind, make, tmp_path):
    """Use the names of the published GPT-2 and OPT files."""
    model = make(kind)
    prefix = {"gpt2": "transformer.", "opt": "model.", "gpt_neox": "gpt_neox."}[kind]
    model.config.save_pretrained(tmp_path)
    stored = fold(state(model), state(model).__getitem__, FAMILIES[kind])
    save_file(
        {name.removeprefix(prefix): t.clone() for name, t in stored}, tmp_path / "model.safetensors"
    )

    opened = Folder(tmp_path)

    assert set(opened) == set(state(model))
    assert all(torch.equal(opened.tensor(name), tensor) for name, tensor in state(model).items())
    streamed = loading.load(tmp_path, Compute(stream=True))
    for name, tensor in streamed.state_dict().items():
        assert tensor.is_meta or torch.equal(tensor, model.state_dict()[name]), name


def index(shard):
    return json.dumps({"weight_map": {"x": shard}})


NO_INDEX = ("", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"x": 3}}')
OTHER_FORMATS = (b"PK\3\4 a zip and a pickle inside", bytes(7) + b"\xff", b"\2" + bytes(7) + b"[]")
UNREADABLE = "^cannot read .* as safetensors .*: download or write it again"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        *(
            (INDEX, index(shard), "outside its folder")
            for shard in ("../secret.safetensors", "/etc/passwd", "a/b.safetensors")
        ),
        *((INDEX, text, "index") for text in NO_INDEX),
        (INDEX, index("model-00001.safetensors"), r"^cannot read .*model-00001.safetensors"),
        *((name, "cos\n", "pickled weights") for name in ("last.ckpt", "consolidated.00.pth")),
        ("notes.txt", "", r"^no model.safetensors in "),
        *(("config.json", text, "not a model folder") for text in (None, "", "[]")),
        *(("model.safetensors", content, UNREADABLE) for content in OTHER_FORMATS),
    ],
)
def test_what_is_no_model_folder_is_refused(name, content, words, home):
    if name == "config.json":
        save_file({"x": torch.ones(1)}, home / "model.safetensors")
    if content is None:
        (home / name).unlink()
    else:
        (home / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=words):
        Folder(home)


@pytest.mark.parametrize("kept", [0, 5, 8, 40, -1, -100])
def test_a_truncated_file_is_refused(kept, home):
    file = home / "model.safetensors"
    save_file({"model.x": torch.ones(50)}, file)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(UserError, match=UNREADABLE):
        Folder(home)


def test_a_dtype_that_torch_cannot_read_is_refused(home):
    """Also of a tensor without values, which has the size of any dtype."""
    header = json.dumps({"model.x": {"dtype": "F4", "shape": [0], "data_offsets": [0, 0]}}).encode()
    (home / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(UserError, match=r"torch cannot read F4, as of 'model\.x'"):
        Folder(home)


def test_shards(make, tmp_path, monkeypatch):
    monkeypatch.setattr("methods.model.folder.SHARD_BYTES", 20_000)
    model = make("llama")
    model.config.save_pretrained(tmp_path)

    save(model, tmp_path)

    opened = Folder(tmp_path)
    assert len(opened.files()) > 3
    assert not (tmp_path / "model.safetensors").exists()
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in state(model).values())
    assert set(index["weight_map"]) == set(opened) == set(state(model))
    assert all(torch.equal(opened.tensor(name), tensor) for name, tensor in state(model).items())
    again = loading.load(tmp_path, Compute()).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items())


def test_one_shard_that_is_full_to_the_byte_loads(home):
    writer = Writer(home, shard_bytes=8)
    writer.add("model.x", torch.tensor([1.0, 2.0]))
    writer.close()
    assert Folder(home).tensor("model.x").tolist() == [1, 2]


@pytest.mark.parametrize("tied", [True, False])
def test_tied_weights_are_written_once(tied, tmp_path):
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(**SIZES, tie_word_embeddings=tied)
    model = AutoModelForCausalLM.from_config(config)
    config.save_pretrained(tmp_path)

    opened = Folder(save(model, tmp_path))

    assert ("lm_head.weight" in opened) != tied
    assert "model.embed_tokens.weight" in opened
    again = loading.load(tmp_path, Compute())
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)
    assert (again.lm_head.weight is again.model.embed_tokens.weight) == tied


def test_equal_weights_that_are_not_tied_are_both_written():
    pair = torch.nn.ModuleList([torch.nn.Linear(4, 4, bias=False) for _ in range(2)])
    pair.load_state_dict({"0.weight": torch.ones(4, 4), "1.weight": torch.ones(4, 4)})
    assert set(state(pair)) == {"0.weight", "1.weight"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_bits_survive(dtype, home):
    """Include the sign of zero, and a transposed view."""
    values = torch.tensor([[-0.0, 0.0, 1.5], [-2.0, 3e-5, -0.0]], dtype=dtype)
    writer = Writer(home)
    writer.add("model.x", values)
    writer.add("model.y", values.T)
    writer.close()

    x, y = (Folder(home).tensor(f"model.{k}") for k in "xy")

    assert x.dtype == y.dtype == dtype
    assert torch.equal(x, values)
    assert torch.equal(x.signbit(), values.signbit())
    assert torch.equal(y, values.T)
    assert y.signbit().tolist() == [[True, True], [False, False], [False, True]]
