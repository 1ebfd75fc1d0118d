"""GGUF files without vocabulary, as engines are timed with."""

import pytest
import torch
import transformers as hf
from gguf import GGUFReader
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from transformers import Qwen2Tokenizer

from bench.inputs import llamacpp, loading
from bench.parts.gguf import gguf_file
from helpers import folders
from helpers.models import GROUPED, build, random_folder, write
from methods.contract.errors import UserError
from methods.contract.method import Compute
from methods.model.folder import Folder

LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
}  # fmt: skip
CONFIGS = {
    "llama": lambda: hf.LlamaConfig(**GROUPED, attention_bias=True),
    "llama3": lambda: hf.LlamaConfig(**GROUPED, rope_parameters=LLAMA3),
    "qwen2": lambda: hf.Qwen2Config(**GROUPED),
    "qwen3": lambda: hf.Qwen3Config(**GROUPED, head_dim=128),
}


def dense(name, folder):
    """A model whose vectors are random, too, and whose attention is far from even."""
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(CONFIGS[name]())
    for parameter in model.parameters():
        mean, deviation = (1.0, 0.5) if parameter.ndim == 1 else (0.0, 0.1)
        torch.nn.init.normal_(parameter, mean, deviation)
    return write(model, folder)


@pytest.mark.parametrize(
    ("name", "kind"),
    [*(("plain", kind) for kind in gguf_file.WRITTEN_TYPES), ("qwen2", "f16"), ("qwen3", "f16")],
)
def test_a_file_is_the_model(tmp_path, name, kind):
    """As transformers reads it: rounding of the weights is all that is lost, whatever the heads."""
    from transformers import AutoModelForCausalLM

    plain = name == "plain"
    folder = write(build("llama"), tmp_path / "m") if plain else dense(name, tmp_path / "m")
    gguf_file.write(folder, tmp_path / "x.gguf", kind)
    ids = torch.randint(64, (1, 9), generator=torch.Generator().manual_seed(0))
    got = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="x.gguf", dtype=torch.float32)(
        ids
    ).logits
    expected = loading.load(folder, Compute())(ids).logits
    found = (got - expected).abs().max() / expected.abs().max()
    assert found < {"f16": 2e-3, "q8_0": 3e-2, "q4_0": 0.4}[kind]


def mixture(name, folder):
    model = build(name)
    if name == "qwen3_moe":
        model.config.norm_topk_prob = True  # as llama.cpp computes it
    return write(model, folder)


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
def test_a_mixture_is_the_model(name, tmp_path):
    """Experts are stacked in order of their numbers, and the router keeps float32."""
    folder, file = mixture(name, tmp_path / "m"), tmp_path / "x.gguf"
    gguf_file.write(folder, file, "f16")
    reader, source = GGUFReader(file), Folder(folder)
    read = {tensor.name: tensor for tensor in reader.tensors}

    path = "model.layers.1.mlp"
    stacked = read["blk.1.ffn_down_exps.weight"].data
    for number in range(len(stacked)):
        fused = source.tensor(f"{path}.experts.{number}.gate_up_proj.weight").half()
        for part, expected in zip(("gate", "up"), fused.chunk(2), strict=True):
            found = torch.tensor(read[f"blk.1.ffn_{part}_exps.weight"].data[number])
            assert torch.equal(found, expected)
    router = torch.tensor(read["blk.1.ffn_gate_inp.weight"].data)
    assert torch.equal(router, source.tensor(f"{path}.gate.weight"))
    counts = {key.rpartition(".")[2]: field.contents() for key, field in reader.fields.items()}
    assert (counts["expert_count"], counts["expert_used_count"]) == (len(stacked), 2)


def test_waves_of_llama_3_are_stretched_as_transformers_does(tmp_path):
    folder = dense("llama3", tmp_path / "m")
    gguf_file.write(folder, tmp_path / "x.gguf", "f16")
    read = {tensor.name: tensor.data for tensor in GGUFReader(tmp_path / "x.gguf").tensors}
    rotary = loading.load(folder, Compute()).model.rotary_emb
    plain = 10000.0 ** -(torch.arange(0, 8, 2) / 8)
    found = plain / torch.tensor(read["rope_freqs.weight"])
    torch.testing.assert_close(found, rotary.inv_freq)
    assert 1 < (plain / found).max() == 8, "the longest wave"


@pytest.mark.parametrize("name", [*CONFIGS, "mixtral", "qwen3_moe"])
def test_llama_cpp_computes_the_logits(name, tmp_path):
    pytest.importorskip("llama_cpp")
    make, file = (dense if name in CONFIGS else mixture), tmp_path / "x.gguf"
    folder = make(name, tmp_path / "m")
    gguf_file.write(folder, file, "f16")
    ids = torch.randint(64, (1, 24), generator=torch.Generator().manual_seed(0))
    expected = loading.load(folder, Compute())(ids).logits[0]
    got = llamacpp.logits(file, ids[0], 1)
    assert (got - expected).abs().max() < 2e-3 * expected.abs().max()
    assert torch.equal(got.argmax(1), expected.argmax(1))


@pytest.mark.parametrize("normalizes", [True, False])
def test_llama_cpp_splits_text_as_the_tokenizer_of_a_qwen_mixture(normalizes, tmp_path):
    """Other words than those of GPT-2: a digit is a word, and a newline ends one."""
    pytest.importorskip("llama_cpp")
    folder, file = random_folder("qwen3_moe", tmp_path / "m"), tmp_path / "x.gguf"
    folders.config(norm_topk_prob=True)(folder)
    pairs = [("i", "n"), ("Ġ", "a"), ("Ġ", "t"), ("1", "2"), (".", "Ċ"), ("Ċ", "Ċ"), ("Ġ", "Ġ")]
    tokens = [*sorted(ByteLevel.alphabet()), *("".join(pair) for pair in pairs)]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=pairs)
    if not normalizes:  # as the tokenizer of a folder that was a GGUF file
        tokenizer.backend_tokenizer.normalizer = None
    tokenizer.save_pretrained(folder)
    gguf_file.write(folder, file, "f16", vocabulary=True)
    for text in ("It's in a tin.\n\nAt 1234  é", "def f(x):\n    return 12\n"):
        assert llamacpp.tokenize(file, text) == tokenizer.encode(text)


def llama_3_tokenizer(ignore_merges):
    """Digits in threes, and "tin", which no merge reaches."""
    pairs = [("1", "2"), ("12", "3"), ("Ġ", "a"), ("Ċ", "Ċ")]
    tokens = [*sorted(ByteLevel.alphabet()), *("".join(pair) for pair in pairs), "Ġtin"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    own = Tokenizer(BPE(vocabulary, pairs, ignore_merges=ignore_merges))
    words = Split(Regex(gguf_file.LLAMA3_WORDS), "isolated")
    own.pre_tokenizer = Sequence([words, ByteLevel(add_prefix_space=False, use_regex=False)])
    own.decoder = ByteLevelDecoder()
    return hf.PreTrainedTokenizerFast(tokenizer_object=own)


def test_llama_cpp_splits_text_as_the_tokenizer_of_llama_3(tmp_path):
    pytest.importorskip("llama_cpp")
    config = hf.LlamaConfig(**GROUPED | {"vocab_size": 300})
    folder = write(hf.AutoModelForCausalLM.from_config(config), tmp_path / "m")
    tokenizer = llama_3_tokenizer(True)
    tokenizer.save_pretrained(folder)
    gguf_file.write(folder, tmp_path / "x.gguf", "f16", vocabulary=True)
    text = "It's in a tin.\n\nAt 1234  é"
    found = llamacpp.tokenize(tmp_path / "x.gguf", text)
    assert found == tokenizer.encode(text)
    assert tokenizer.convert_tokens_to_ids("Ġtin") in found


def test_llama_3_without_whole_words_is_no_gguf(tmp_path):
    """llama.cpp takes " tin" as one token, which this tokenizer spells in letters."""
    folder = write(build("llama"), tmp_path / "m")
    llama_3_tokenizer(False).save_pretrained(folder)
    with pytest.raises(UserError, match="is not written as GGUF"):
        gguf_file.write(folder, tmp_path / "x.gguf", "f16", vocabulary=True)


def test_llama_3_without_a_constant_is_a_sentence(tmp_path):
    folder = dense("llama3", tmp_path / "m")
    for damage in ({"low_freq_factor": 4.0}, {"factor": 0.0}, {"factor": None}):
        folders.config(rope_parameters=LLAMA3 | damage)(folder)
        with pytest.raises(UserError, match="type llama3 without the positive numbers factor"):
            gguf_file.write(folder, tmp_path / "x.gguf", "f16")


def test_what_the_format_is_not_written_for_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match="of the family gpt2, and GGUF is written for llama, qwen2"):
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
