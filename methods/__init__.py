"""Public names for the author of a method: the contract, the walk, the pattern, the trainer, the
errors.

    from methods import Job, Needs, Outcome, Walk

The names are loaded when they are first used, so `import methods` does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from methods.codec import Codec, FloatCodec, Storage, StoredWeight
    from methods.contract import Budget, Compute, Job, Method, Needs, Outcome, Prior
    from methods.errors import Diverged, Skipped, UserError
    from methods.info import Cost, Does, MeasureInfo, MethodInfo, Metric, Removes, Rule
    from methods.pattern import Pattern
    from methods.pruning.hessian import HessianWalk
    from methods.pruning.walk import Visit, Walk
    from methods.quantizing.formats import Format, RoundInGroups, RoundToNearest
    from methods.quantizing.grid_codec import GridCodec
    from methods.quantizing.grids import Integer
    from methods.training.distill import Settings
    from methods.training.loss import Loss
    from methods.training.settings import TrainingSettings
    from methods.training.trainer import Trainer

__all__ = [
    "Budget",
    "Codec",
    "Compute",
    "Cost",
    "Diverged",
    "Does",
    "FloatCodec",
    "Format",
    "GridCodec",
    "HessianWalk",
    "Integer",
    "Job",
    "Loss",
    "MeasureInfo",
    "Method",
    "MethodInfo",
    "Metric",
    "Needs",
    "Outcome",
    "Pattern",
    "Prior",
    "Removes",
    "RoundInGroups",
    "RoundToNearest",
    "Rule",
    "Settings",
    "Skipped",
    "Storage",
    "StoredWeight",
    "Trainer",
    "TrainingSettings",
    "UserError",
    "Visit",
    "Walk",
]

_MODULES = {
    "codec": ("Codec", "FloatCodec", "Storage", "StoredWeight"),
    "contract": ("Budget", "Compute", "Job", "Method", "Needs", "Outcome", "Prior"),
    "errors": ("Diverged", "Skipped", "UserError"),
    "info": ("Cost", "Does", "MeasureInfo", "MethodInfo", "Metric", "Removes", "Rule"),
    "pattern": ("Pattern",),
    "pruning.hessian": ("HessianWalk",),
    "pruning.walk": ("Visit", "Walk"),
    "quantizing.grid_codec": ("GridCodec",),
    "quantizing.formats": ("Format", "RoundInGroups", "RoundToNearest"),
    "quantizing.grids": ("Integer",),
    "training.distill": ("Settings",),
    "training.loss": ("Loss",),
    "training.settings": ("TrainingSettings",),
    "training.trainer": ("Trainer",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'methods' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"methods.{_MODULE_OF[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
