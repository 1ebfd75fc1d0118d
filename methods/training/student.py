"""A model in training: hidden states, head and loss."""

from __future__ import annotations

from torch import Tensor, nn

from methods.logits import finish_of
from methods.training import distill


class Student(nn.Module):
    """A causal model with its loss in one forward pass, as sharding requires."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, ids: Tensor, teacher: distill.Teacher | None, eta: float, temperature: float, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        head = head_of(self.model)
        return distill.loss(
            hidden_states(self.model, ids), head.weight, ids[:, 1:].flatten(), teacher,
            bias=head.bias, finish=head.finish, eta=eta, temperature=temperature, scale=scale,
        )  # fmt: skip


def hidden_states(model: nn.Module, ids: Tensor) -> Tensor:
    """The inputs of the head for all tokens but the last of each sequence: [batch * (seqlen - 1), width]."""
    states: Tensor = model.base_model(input_ids=ids, use_cache=False)[0][:, :-1]  # type: ignore[operator]
    return states.flatten(0, 1)


def head_of(model: nn.Module) -> distill.Head:
    """The output head."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    return distill.Head(head.weight, getattr(head, "bias", None), finish_of(model))
