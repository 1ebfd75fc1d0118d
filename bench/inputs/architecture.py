"""Check a model's config and its tensors against each other, before any tensor is read. Needs no torch.

transformers builds what the config says, in any size, and fills what is missing with random numbers. So the tensors that
an architecture has are listed here, with their shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from bench.inputs.model_config import ACTIVATIONS, ATTENTION, CONFIG_DTYPES, MAX_LABELS, REDIRECTS, ModelConfig
from methods.errors import UserError
from methods.folder import TIED, TIED_BY_DEFAULT, Folder
from methods.targets import FAMILIES

Shape = tuple[int, ...]

DTYPES = ("F16", "BF16", "F32", "F64")


class Layout(NamedTuple):
    """The tensors of a model and their shapes."""

    blocks: int
    outer: dict[str, Shape]
    """By full name."""
    block: dict[str, Shape]
    """By the name inside a block."""

    def tensors(self, prefix: str) -> Iterator[tuple[str, Shape]]:
        """Every tensor. prefix: the path of the blocks."""
        yield from self.outer.items()
        for i in range(self.blocks):
            for name, shape in self.block.items():
                yield f"{prefix}.{i}.{name}", shape


def check(folder: Folder) -> None:
    """Check that a model of a known family is whole: as many layers, and tensors of such names, shapes and dtypes, as its
    config says.

    Raises:
        UserError: it is not.
    """
    config = ModelConfig(folder.config, str(folder.path))
    kind = folder.config.get("model_type")
    if kind not in FAMILIES or folder.config.get("quantization_config") is not None:
        return  # refused where its targets are looked for
    family, layout = FAMILIES[kind], _LAYOUTS[kind](config, kind)
    _check_values(config, layout)
    shapes, dtypes = folder.shapes(), folder.dtypes()
    blocks = 1 + max((i for i in map(family.block_of, shapes) if i is not None), default=-1)
    if blocks != layout.blocks:
        raise UserError(
            f"config.json in {folder.path} says {layout.blocks} layers, and its weights have {blocks}: "
            "download or write it again"
        )
    head = next((n for n in TIED if n in shapes), TIED[0])
    if not folder.config.get("tie_word_embeddings", kind in TIED_BY_DEFAULT):
        layout.outer[head] = next(iter(layout.outer.values()))
    for name, shape in layout.tensors(family.blocks):
        if name not in shapes:
            raise UserError(f"{folder.path} lacks the tensor {name}: download or write it again")
        if shapes[name] != shape:
            raise UserError(
                f"{name} in {folder.path} is {list(shapes[name])}, and by its config.json {list(shape)}: "
                "download or write it again"
            )
        if dtypes[name] not in DTYPES:
            raise UserError(
                f"{name} in {folder.path} is {dtypes[name]}, not one of {', '.join(DTYPES)}: use unquantized weights"
            )


def _check_values(config: ModelConfig, layout: Layout) -> None:
    """What decides no shape, but stops transformers."""
    vocabulary, _ = next(iter(layout.outer.values()))
    config.token("pad_token_id", vocabulary)
    for name in REDIRECTS:
        config.absent(name)
    for name in ("attn_implementation", "_attn_implementation"):
        config.choice(name, ATTENTION)
    config.size("num_labels", default=1, most=MAX_LABELS)
    for name in ("hidden_act", "activation_function"):
        config.choice(name, ACTIVATIONS)
    for name in ("dtype", "torch_dtype"):
        config.choice(name, CONFIG_DTYPES)
    for name in ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "rope_theta", "attention_dropout"):
        config.number(name)
    config.size("max_position_embeddings", "n_positions", default=1)
    config.rope()


def _gated(config: ModelConfig, kind: str) -> Layout:
    """LLaMA, and what is built like it."""
    hidden, inner = config.size("hidden_size"), config.size("intermediate_size")
    heads = config.size("num_attention_heads")
    default = {"mistral": 8, "qwen2": 32, "qwen3": 32}.get(kind, heads)
    groups = config.size("num_key_value_heads", default=default)
    config.divides(groups, heads, "num_attention_heads are shared among num_key_value_heads")
    width = config.size("head_dim", default=128 if kind == "qwen3" else max(1, hidden // heads))
    linears = {
        "self_attn.q_proj": (heads * width, hidden),
        "self_attn.k_proj": (groups * width, hidden),
        "self_attn.v_proj": (groups * width, hidden),
        "self_attn.o_proj": (hidden, heads * width),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    biased = {
        "self_attn": kind == "qwen2" or (kind != "mistral" and config.flag("attention_bias", False)),
        "mlp": kind == "llama" and config.flag("mlp_bias", False),
    }
    block: dict[str, Shape] = {f"{name}.weight": shape for name, shape in linears.items()}
    for name, (rows, _) in linears.items():
        if biased[name.split(".")[0]] and not (kind == "qwen2" and name.endswith("o_proj")):
            block[f"{name}.bias"] = (rows,)
    norms = {"input_layernorm": hidden, "post_attention_layernorm": hidden}
    if kind == "qwen3":
        norms |= {"self_attn.q_norm": width, "self_attn.k_norm": width}
    block |= {f"{name}.weight": (size,) for name, size in norms.items()}
    outer: dict[str, Shape] = {
        "model.embed_tokens.weight": (config.size("vocab_size"), hidden),
        "model.norm.weight": (hidden,),
    }
    return Layout(config.size("num_hidden_layers"), outer, block)


def _opt(config: ModelConfig, kind: str) -> Layout:
    hidden, inner = config.size("hidden_size"), config.size("ffn_dim")
    embedding = config.size("word_embed_proj_dim", default=hidden)
    config.divides(config.size("num_attention_heads"), hidden, "hidden_size is shared among num_attention_heads")
    base = "model.decoder."
    outer: dict[str, Shape] = {
        f"{base}embed_tokens.weight": (config.size("vocab_size"), embedding),
        f"{base}embed_positions.weight": (config.size("max_position_embeddings") + 2, hidden),
    }
    if embedding != hidden:
        outer |= {f"{base}project_in.weight": (hidden, embedding), f"{base}project_out.weight": (embedding, hidden)}
    affine = config.flag("layer_norm_elementwise_affine", True)
    final = config.flag("do_layer_norm_before", True) and not config.flag("_remove_final_layer_norm", False)
    if affine and final:
        outer |= _norm(f"{base}final_layer_norm", hidden)
    block = _linears(
        {f"self_attn.{x}_proj": (hidden, hidden) for x in ("q", "k", "v", "out")}
        | {"fc1": (inner, hidden), "fc2": (hidden, inner)},
        config.flag("enable_bias", True),
    )
    if affine:
        block |= _norm("self_attn_layer_norm", hidden) | _norm("final_layer_norm", hidden)
    return Layout(config.size("num_hidden_layers"), outer, block)


def _gpt2(config: ModelConfig, kind: str) -> Layout:
    hidden = config.size("n_embd", "hidden_size")
    inner = config.size("n_inner", default=4 * hidden)
    config.divides(config.size("n_head", "num_attention_heads"), hidden, "n_embd is shared among n_head")
    outer: dict[str, Shape] = {
        "transformer.wte.weight": (config.size("vocab_size"), hidden),
        "transformer.wpe.weight": (config.size("n_positions", "max_position_embeddings"), hidden),
        **_norm("transformer.ln_f", hidden),
    }
    linears = {
        "attn.c_attn": (hidden, 3 * hidden),
        "attn.c_proj": (hidden, hidden),
        "mlp.c_fc": (hidden, inner),
        "mlp.c_proj": (inner, hidden),
    }  # stored [in, out]
    block: dict[str, Shape] = {f"{name}.weight": shape for name, shape in linears.items()}
    block |= {f"{name}.bias": (columns,) for name, (_, columns) in linears.items()}
    block |= _norm("ln_1", hidden) | _norm("ln_2", hidden)
    return Layout(config.size("n_layer", "num_hidden_layers"), outer, block)


def _gpt_neox(config: ModelConfig, kind: str) -> Layout:
    hidden, inner = config.size("hidden_size"), config.size("intermediate_size")
    config.divides(config.size("num_attention_heads"), hidden, "hidden_size is shared among num_attention_heads")
    outer: dict[str, Shape] = {
        "gpt_neox.embed_in.weight": (config.size("vocab_size"), hidden),
        **_norm("gpt_neox.final_layer_norm", hidden),
    }
    block = _linears(
        {"attention.query_key_value": (3 * hidden, hidden), "attention.dense": (hidden, hidden)},
        config.flag("attention_bias", True),
    )
    block |= _linears({"mlp.dense_h_to_4h": (inner, hidden), "mlp.dense_4h_to_h": (hidden, inner)}, True)
    block |= _norm("input_layernorm", hidden) | _norm("post_attention_layernorm", hidden)
    return Layout(config.size("num_hidden_layers"), outer, block)


def _linears(shapes: Mapping[str, tuple[int, int]], bias: bool) -> dict[str, Shape]:
    """Of linears stored [out, in]."""
    out: dict[str, Shape] = {f"{name}.weight": shape for name, shape in shapes.items()}
    return out | ({f"{name}.bias": (rows,) for name, (rows, _) in shapes.items()} if bias else {})


def _norm(name: str, size: int) -> dict[str, Shape]:
    """Of a layer norm."""
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


_LAYOUTS: dict[str, Callable[[ModelConfig, str], Layout]] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), _gated),
    "opt": _opt,
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
}
