"""Public names for the author of a method: the contract, the walk, the pattern, the trainer, the
errors.

    from methods import Job, Needs, Outcome, Walk

The names are loaded when they are first used, so `import methods` does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from methods.contract.codec import Codec, FloatCodec, Storage, StoredWeight
    from methods.contract.errors import Diverged, Skipped, UserError
    from methods.contract.info import Cost, Does, MethodInfo, Removes, Rule
    from methods.contract.measure_info import MeasureInfo, Metric
    from methods.contract.method import Budget, Compute, Job, Method, Needs, Outcome, Prior
    from methods.contract.pattern import Pattern
    from methods.workshop.pruning.hessian import HessianWalk
    from methods.workshop.pruning.walk import Visit, Walk
    from methods.workshop.quantizing.grid_codec import GridCodec
    from methods.workshop.quantizing.grids import Integer
    from methods.workshop.quantizing.weight_formats import Format, RoundInGroups, RoundToNearest
    from methods.workshop.training.distill import Settings
    from methods.workshop.training.loss import Loss
    from methods.workshop.training.settings import TrainingSettings
    from methods.workshop.training.trainer import Trainer

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
    "contract.codec": ("Codec", "FloatCodec", "Storage", "StoredWeight"),
    "contract.method": ("Budget", "Compute", "Job", "Method", "Needs", "Outcome", "Prior"),
    "contract.errors": ("Diverged", "Skipped", "UserError"),
    "contract.info": ("Cost", "Does", "MethodInfo", "Removes", "Rule"),
    "contract.measure_info": ("MeasureInfo", "Metric"),
    "contract.pattern": ("Pattern",),
    "workshop.pruning.hessian": ("HessianWalk",),
    "workshop.pruning.walk": ("Visit", "Walk"),
    "workshop.quantizing.grid_codec": ("GridCodec",),
    "workshop.quantizing.weight_formats": ("Format", "RoundInGroups", "RoundToNearest"),
    "workshop.quantizing.grids": ("Integer",),
    "workshop.training.distill": ("Settings",),
    "workshop.training.loss": ("Loss",),
    "workshop.training.settings": ("TrainingSettings",),
    "workshop.training.trainer": ("Trainer",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'methods' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"methods.{_MODULE_OF[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
