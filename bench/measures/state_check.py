"""Check that a model computes numbers. The most likely token of logits that are NaN is the first,
and so an answer like any other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from methods.contract.errors import Diverged

if TYPE_CHECKING:
    from torch import Tensor, nn


class StateCheck:
    """Watches the inputs of a model's head from now on."""

    def __init__(self, model: Any) -> None:
        self._wrong: Tensor | None = None  # on the device, which is not waited for
        model.get_output_embeddings().register_forward_pre_hook(self._look)

    def _look(self, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        wrong = args[0].isfinite().all().logical_not()
        self._wrong = wrong if self._wrong is None else self._wrong | wrong

    def require_numbers(self, name: str) -> None:
        """Raise Diverged if an input was NaN or infinite. name: of the model, for the error."""
        if self._wrong is not None and bool(self._wrong):
            raise Diverged(
                f"the hidden states of {name} are NaN or infinite, so its answers say nothing"
            )
