"""LoRA adapters of peft, merged into their original."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.formats.checkpoint import ADAPTER, Checkpoint
from bench.system.suggest import shorten
from methods.contract.errors import UserError
from methods.model.families import FAMILIES
from methods.model.folder import Folder
from methods.model.header import read_header
from methods.model.low_rank_adapter import PREFIX, WEIGHTS
from methods.model.safe_files import read_object

if TYPE_CHECKING:
    from torch import Tensor

STARTS_FROM_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Values of init_lora_weights, or their beginnings, with which peft subtracts the start of an
adapter from the weights."""


class AdapterCheckpoint(Checkpoint):
    """An adapter on its original: W + s B A, where s is alpha / r, or alpha / sqrt(r) with rslora.

    The files that count are those of the merged model, because that is what is measured.
    """

    def __init__(self, path: Path, original: Folder) -> None:
        if original.config.get("quantization_config"):
            raise UserError(
                f"{original.path} is quantized: add the adapter to its unquantized weights"
            )
        super().__init__(original)
        self.path = path
        try:
            self._about = about = read_object(path, ADAPTER) or {}
        except (OSError, ValueError) as fault:
            raise self._cannot_read(f"{ADAPTER} is invalid ({fault})") from None
        for key, value in (
            ("peft_type", "LORA"), ("use_dora", False), ("bias", "none"), ("lora_bias", False),
            ("alora_invocation_tokens", None),
        ):  # fmt: skip
            if about.get(key, value) != value:
                raise self._cannot_read(
                    f"{key} is {about[key]!r}, and only {value!r} is merged here"
                )
        if str(start := about.get("init_lora_weights")).lower().startswith(STARTS_FROM_BASE):
            raise self._cannot_read(
                f"it starts from {start!r}, with which peft changes the original, too"
            )
        self.form = f"peft LoRA, rank {about.get('r')}, merged"
        self._stored = read_header(path, WEIGHTS)
        self._replaced = self._names(original)
        family = FAMILIES.get(original.config.get("model_type", ""))
        embedding = next(iter(family.outer)) if family else ""
        if original.is_tied and about.get("modules_to_save") and embedding in self._replaced:
            raise self._cannot_read(
                "it has its own embedding, and peft does not tie the head to it"
            )
        self._alphas = self._match_alphas()

    def _names(self, original: Folder) -> dict[str, dict[str, str]]:
        """Return the parts of each changed tensor: "A" and "B", or "whole" for a module that was
        trained."""
        changed: dict[str, dict[str, str]] = {}
        for stored in self._stored:
            match = re.fullmatch(
                r"(?:base_model\.model\.)?(.+?)\.lora_(A|B)(?:\.default)?\.weight", stored
            )
            if match:
                name = f"{match[1]}.weight"
            else:
                name = stored.removeprefix(PREFIX).replace(".modules_to_save", "")
            part = match[2] if match else "whole"
            if name not in original:
                raise self._cannot_read(f"it changes {name}, which {original.path} does not have")
            changed.setdefault(name, {})[part] = stored
        if not changed or any(
            set(parts) not in ({"A", "B"}, {"whole"}) for parts in changed.values()
        ):
            raise self._cannot_read(f"{WEIGHTS} lacks a part of an adapter")
        return changed

    def tensor(self, name: str) -> Tensor:
        from safetensors import safe_open

        weight = self.folder.tensor(name)
        parts = self._replaced.get(name)
        if not parts:
            return weight
        with safe_open(self.path / WEIGHTS, framework="pt") as opened:
            read: dict[str, Tensor] = {
                part: opened.get_tensor(stored) for part, stored in parts.items()
            }
        if "whole" in read:
            family = FAMILIES.get(self.config.get("model_type", ""))
            turned = family is not None and family.turns(name)
            whole = read["whole"]
            shape = weight.shape[::-1] if turned else weight.shape
            if whole.shape != shape:
                raise self._cannot_read(f"{name} is {list(whole.shape)}, not {list(shape)}")
            return whole.T.contiguous() if turned else whole
        a, b = read["A"].float(), read["B"].float()
        # Before the product, which may be much larger than its factors.
        if (
            a.ndim != 2
            or b.ndim != 2
            or not 0 < a.shape[0] == b.shape[1]
            or (b.shape[0], a.shape[1]) != weight.shape
        ):
            raise self._cannot_read(
                f"A {list(a.shape)} and B {list(b.shape)} of {name} do not fit {list(weight.shape)}"
            )
        merged: Tensor = weight.float() + (b @ a) * self._scale(name, a.shape[0])
        return merged.to(weight.dtype)

    def _scale(self, name: str, rank: int) -> float:
        """Return the factor of a linear's update."""
        alpha = self._alphas.get(name.removesuffix(".weight"), self._about.get("lora_alpha", 8))
        if type(alpha) not in (int, float) or not abs(alpha) <= 1e30:
            raise self._cannot_read(f"lora_alpha is {alpha!r}, not a number")
        divisor = math.sqrt(rank) if self._about.get("use_rslora") else rank
        return float(alpha) / divisor

    def _match_alphas(self) -> dict[str, Any]:
        """Return the alphas that alpha_pattern gives to linears. As in peft, its keys are regular
        expressions, and the first one that matches counts.
        """
        from pyarrow import ArrowInvalid, array, compute

        patterns: Any = self._about.get("alpha_pattern") or {}
        if not isinstance(patterns, dict):
            raise self._cannot_read(f"alpha_pattern is {shorten(repr(patterns))}, not an object")
        alphas: dict[str, Any] = {}
        modules = [name.removesuffix(".weight") for name in self._replaced]
        for pattern, alpha in reversed(patterns.items()):
            try:
                # RE2 takes linear time, where re may take forever for an expression of others.
                found = compute.match_substring_regex(array(modules), rf"^(.*\.)?({pattern})$")
            except ArrowInvalid:
                raise self._cannot_read(
                    f"{shorten(pattern)} in alpha_pattern is no expression that RE2 reads"
                ) from None
            alphas |= {
                module: alpha
                for module, matches in zip(modules, found.to_pylist(), strict=True)
                if matches
            }
        return alphas

    def _cannot_read(self, why: str) -> UserError:
        return UserError(
            f"the adapter {self.path} cannot be read: {why}. Merge it with peft, and name the "
            "merged folder"
        )
