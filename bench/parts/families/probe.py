"""Shapes of an architecture as arithmetic on its config, found by building it with sizes that are
easy to tell apart."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bench.inputs import loading
from methods.contract.errors import UserError
from methods.model.experts import stores_in_out
from methods.model.families import Shape, Size, compute

SIZES = {
    "hidden_size": 108, "n_embd": 108, "intermediate_size": 134, "ffn_dim": 134, "n_inner": 134,
    "num_attention_heads": 9, "n_head": 9, "num_key_value_heads": 3, "head_dim": 10,
    "vocab_size": 131, "max_position_embeddings": 71, "n_positions": 71, "word_embed_proj_dim": 26,
}  # fmt: skip
"""Config values that decide shapes, and the size that the probe gives each: no sum or product of
them equals another."""
OPTIONAL = ("num_key_value_heads", "head_dim", "n_inner", "word_embed_proj_dim")
"""Config values that config.json may leave out, because transformers fills them in."""
COUNTS = ("num_attention_heads", "num_key_value_heads")
HEADS, KEYS = "num_attention_heads * head_dim", "num_key_value_heads * head_dim"
HEAD = "hidden_size // num_attention_heads"
"""Size of a head where the architecture does not read `head_dim`."""
FORMULAS = (
    HEADS, KEYS, "max_position_embeddings + 2", "4 * hidden_size", *COUNTS,
    f"num_key_value_heads * ({HEAD})", HEAD,
)  # fmt: skip
FILLED_IN = ("num_attention_heads", HEAD, "hidden_size", "4 * n_embd")
"""Expressions that transformers may fill in for a missing value."""
TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id")
LEFT_OUT = ("rope_scaling", "rope_parameters", "architectures", "auto_map", "quantization_config")
OTHER_FLAGS = (
    "use_cache",
    "tie_word_embeddings",
    "is_decoder",
    "is_encoder_decoder",
    "add_cross_attention",
    "return_dict",
)

Shapes = dict[str, tuple[int, ...]]


def build(config: Mapping[str, Any]) -> Any:
    """Build a model on the meta device. Raise UserError if transformers cannot build it."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config))
        return loading.empty_model(
            Path(folder), torch.float32, f"architecture {config.get('model_type')!r}"
        )


def _missing(shapes: Shapes, others: Shapes) -> list[str]:
    """Return the tensors that `others` lacks."""
    return [name for name in shapes if name not in others]


def shapes_of(model: Any) -> Shapes:
    """Return the shape of each tensor by its name, of a weight [out, in]."""
    turned = {f"{name}.weight" for name, module in model.named_modules() if stores_in_out(module)}
    return {
        n: tuple(t.shape[::-1] if n in turned else t.shape) for n, t in model.state_dict().items()
    }


class Probe:
    """An architecture whose sizes all differ."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Raise UserError if transformers cannot build it."""
        base = {k: v for k, v in config.items() if k not in LEFT_OUT} | dict.fromkeys(TOKENS, 0)
        given = build(base).config
        self.canonical: dict[str, str] = {
            own: other for other, own in dict(given.attribute_map).items()
        }
        """Common name of each value that this architecture calls by another name."""
        has = given.to_dict()
        self.config = base | {k: v for k, v in SIZES.items() if k in has or k in OPTIONAL}
        self.model = build(self.config)
        self.shapes = shapes_of(self.model)
        for name in OPTIONAL:
            if self._shapes(self.without(name)) == self.shapes:
                # This architecture does not read it.
                self.config = self.without(name)
        self.values = {k: v for k, v in self.config.items() if k in SIZES}

    def without(self, name: str) -> dict[str, Any]:
        """Return the config without a value."""
        return {k: v for k, v in self.config.items() if k != name}

    @staticmethod
    def _shapes(config: Mapping[str, Any]) -> Shapes:
        try:
            return shapes_of(build(config))
        except UserError:
            return {}

    def shape(self, tensor: str, shape: tuple[int, ...]) -> Shape:
        """Return the shape of a tensor of the probe as arithmetic on the config, or raise
        UserError. tensor: its name."""
        return tuple(self._size(tensor, size) for size in shape)

    def _size(self, tensor: str, size: int) -> Size | tuple[Size, ...]:
        terms: dict[str, int] = {
            k: v for k, v in self.values.items() if k not in (*COUNTS, "n_head")
        }
        terms |= {text: value for text in FORMULAS if (value := self._compute(text)) is not None}
        for parts in (1, 2, 3):
            term = next((t for t, value in terms.items() if value * parts == size), None)
            if term:
                return term if parts == 1 else (term,) * parts
        if size == terms.get(HEADS, 0) + 2 * terms.get(KEYS, 0):
            return (HEADS, KEYS, KEYS)
        raise UserError(
            f"{tensor} has a dimension of {size}, which is no sum or product of "
            f"{', '.join(f'{k}={v}' for k, v in self.values.items())}: write the entry of this "
            "architecture by hand (docs/models.md)"
        )

    def _compute(self, text: str) -> int | None:
        """Return the value of an expression; None if the architecture lacks a value in it."""
        try:
            return compute(text, self.values.__getitem__)
        except KeyError:
            return None

    def defaults(self, used: set[str]) -> dict[str, Size]:
        """Return what transformers fills in for missing values. used: values that a shape depends
        on."""
        own: dict[str, Size] = {
            name: other for name, other in self.canonical.items() if name in used
        }
        return own | {
            name: value
            for name in OPTIONAL
            if name in used and (value := self._filled_in(name)) is not None
        }

    def _filled_in(self, name: str) -> Size | None:
        model = build(self.without(name))
        value, shapes = getattr(model.config, name, None), shapes_of(model)
        for text in FILLED_IN:
            other = self._compute(text)
            if other is None or (value is not None and value != other):
                continue
            if self._shapes(self.config | {name: other}) == shapes:
                return text
        return value if isinstance(value, int) else None

    def flags(self) -> dict[str, bool]:
        """Return the flags that decide which tensors exist, each with its default."""
        found = {}
        for name, value in self.model.config.to_dict().items():
            if type(value) is bool and name not in OTHER_FLAGS:
                other = self._shapes(self.config | {name: not value})
                if other and other.keys() != self.shapes.keys():
                    found[name] = bool(getattr(build(self.without(name)).config, name))
        return found

    def conditions(
        self, flags: Mapping[str, bool], defaults: Mapping[str, Size]
    ) -> dict[str, dict[str, Shape]]:
        """Return the tensors that exist under a condition, by the condition."""
        terms: dict[str, list[str]] = {}
        added: dict[str, dict[str, Shape]] = {}
        config = self.model.config
        for name in flags:
            now = bool(getattr(config, name))
            other = self._shapes(self.config | {name: not now})
            holds, fails = name, f"not {name}"
            if not now:
                holds, fails = fails, holds
            for tensor in _missing(self.shapes, other):
                terms.setdefault(tensor, []).append(holds)
            for tensor in _missing(other, self.shapes):
                added.setdefault(fails, {})[tensor] = self.shape(tensor, other[tensor])
        for name, default in defaults.items():
            if isinstance(default, str) and name in OPTIONAL:
                for tensor in _missing(self.shapes, self._shapes(self.without(name))):
                    terms.setdefault(tensor, []).append(f"{name} != {default}")
        for tensor, conditions in terms.items():
            added.setdefault(" and ".join(conditions), {})[tensor] = self.shape(
                tensor, self.shapes[tensor]
            )
        return added
