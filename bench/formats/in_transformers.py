"""Folders of `bench export --format stored` in transformers: `from_pretrained` reads them once this
module is imported, and decodes each weight once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.quantizers import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from bench.formats.checkpoint import QUANT_METHOD
from bench.formats.stored import StoredFolder
from methods.contract.errors import UserError

DECIDES_NO_NUMBER = True


@register_quantization_config(QUANT_METHOD)
class StoredConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """`quantization_config` of a stored folder. What each weight needs is beside the tensors."""

    def __init__(self, **others: Any) -> None:
        self.quant_method = QUANT_METHOD


@register_quantizer(QUANT_METHOD)
class StoredQuantizer(HfQuantizer):  # type: ignore[misc]
    """Fills a model of transformers with stored weights, in the number format it is loaded in."""

    requires_calibration = True

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        folder = Path(model.config._name_or_path)
        self.weights = StoredFolder(folder)
        if not self.weights:
            raise UserError(
                f"{folder} is no folder with stored weights: download the model whole, and name "
                "its folder"
            )
        # They are no keys of the safetensors files, and neither is a head that is tied to them.
        self.tied = model.all_tied_weights_keys
        missing = [*(f"{target}.weight" for target in self.weights), *self.tied]
        known = model._keys_to_ignore_on_load_missing or []
        model._keys_to_ignore_on_load_missing = [*known, *map(re.escape, missing)]
        model.all_tied_weights_keys = {}

    @torch.no_grad()
    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        for target in self.weights:
            model.get_submodule(target).weight.copy_(self.weights.weight(target))
        model.all_tied_weights_keys = self.tied
        model.tie_weights()

    def is_serializable(self) -> bool:
        return False

    @property
    def is_trainable(self) -> bool:
        return False


def load(folder: Path | str, **others: Any) -> PreTrainedModel:
    """Load a folder of `bench export --format stored` with transformers, offline.

    others: arguments of `from_pretrained`, such as device_map. The number format is that of the
    folder by default.

    Raises:
        UserError: the folder has no stored weights, or they do not fit together.
    """
    given = {"dtype": "auto", "local_files_only": True} | others
    return AutoModelForCausalLM.from_pretrained(folder, **given)
