"""The vectors of a model that several modules write and read, and changes of them that keep the
model's function."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from methods.contract.errors import Skipped, UserError
from methods.contract.method import Job, Outcome
from methods.model.experts import unfold
from methods.model.families import Flow
from methods.model.targets import family_of, require_flow
from methods.workshop.pruning.activations import batch_of, require_finite, watched
from methods.workshop.quantizing.grids import assign_
from methods.workshop.transforms.changes import Change, Scaling

Edit = Callable[[Tensor], Tensor]
"""A function of a tensor in float64, along its last dimension."""


class Wiring:
    """Collects changes of a model, and makes them once, in float64, so that each tensor is rounded
    once.

        wiring = Wiring(model, job, "rotate")
        wiring.residual(Rotation(q))
        return wiring.outcome()

    Only a dense model in memory has a wiring.
    """

    def __init__(self, model: nn.Module, job: Job, name: str) -> None:
        """Refuse a pruned model or another family, and skip one larger than memory. name: name of
        the transform, for errors."""
        self.model, self.name = unfold(model), name
        config: Any = model.config
        self.config = config
        self.flow: Flow = require_flow(config.to_dict(), name)
        family = family_of(config.to_dict())
        if any(p.is_meta for p in model.parameters()):
            raise Skipped(f"{name} needs the whole model in memory, and this one is streamed")
        if job.prior and any(_pruned(mask) for mask in job.prior.masks.values()):
            raise UserError(
                f"{name} starts from a dense model, and would fill the zeros of a pruned one: use "
                "it first"
            )
        layers: Any = model.get_submodule(family.blocks)
        self.blocks = [f"{family.blocks}.{i}" for i in range(len(layers))]
        self._outer = {n: p for n, p in model.named_parameters() if family.block_of(n) is None}
        self._targets, self._stored = job.targets, job.compute.stored
        self._config: dict[str, Any] = {}
        self._rows: dict[str, list[Edit]] = defaultdict(list)
        self._columns: dict[str, list[Edit]] = defaultdict(list)

    # What can be changed

    def residual(self, change: Change, *, fold: bool = False) -> None:
        """Change the residual stream: embeddings, norms, and all linears that write or read it.

        fold: move the weights of norms into the linears that read them, which a rotation needs. A
        tied head gets its own tensor. Raise UserError for `fold` if norms follow the writers.
        """
        if fold:
            require_flow(self.config.to_dict(), self.name, fold=True)
            self._untie()
        width = self.config.hidden_size
        tables = [
            n
            for n, p in self._outer.items()
            if p.dim() == 2 and p.shape[-1] == width and n != f"{self._head}.weight"
        ]
        for name in tables:
            self._columns[name].append(change.vectors)
        for block in self.blocks:
            for norm, readers in self.flow.norms.items():
                self._norm(
                    f"{block}.{norm}" if norm else "",
                    [f"{block}.{r}" for r in readers],
                    change,
                    fold,
                )
            for norm in self.flow.after:
                self._columns[f"{block}.{norm}.weight"].append(change.vectors)
            for writer in self.flow.writers:
                self._outputs(f"{block}.{writer}", change.vectors)
        self._norm(
            self.flow.final,
            [self._head] if f"{self._head}.weight" in self._outer else [],
            change,
            fold,
        )

    def normed(self, block: str, norm: str, change: Scaling) -> None:
        """Scale the output of a norm of a block."""
        change = self._storable(f"{block}.{norm}", change)
        self._norm_edit(f"{block}.{norm}", change.vectors, change.vectors)
        for reader in self.flow.norms[norm]:
            self._columns[f"{block}.{reader}.weight"].append(change.columns)

    def values(self, block: str, change: Change) -> None:
        """Change the values of a block's attention, head by head. The change has a row for each
        head of the keys."""
        writer, reader = (f"{block}.{name}" for name in self.flow.values)
        heads, groups = self.heads
        self._outputs(writer, change.vectors)
        self._columns[f"{reader}.weight"].append(change.repeat(heads // groups).columns)

    def units(self, block: str, change: Change) -> None:
        """Change the inner units of a block's MLP. A permutation moves them; a scaling acts on the
        factor alone."""
        *writers, reader = (f"{block}.{name}" for name in self.flow.units)
        if isinstance(change, Scaling):
            writers = [f"{block}.{self.flow.factor}"]
        for writer in writers:
            self._outputs(writer, change.vectors)
        self._columns[f"{reader}.weight"].append(change.columns)

    # What is there

    @property
    def heads(self) -> tuple[int, int]:
        """Number of heads of the queries, and of the keys and values."""
        heads: int = self.config.num_attention_heads
        return heads, getattr(self.config, "num_key_value_heads", None) or heads

    def width(self, linear: str) -> int:
        """Return the number of inputs of a linear."""
        return self.model.get_parameter(f"{linear}.weight").shape[1]

    def readers(self) -> Iterator[tuple[str, str, list[str]]]:
        """Yield each norm that linears read: its block, its name, and the linears."""
        for block in self.blocks:
            for norm, readers in self.flow.norms.items():
                yield block, norm, [f"{block}.{reader}" for reader in readers]

    def norms(self) -> list[str]:
        """Return the norms that read the residual stream."""
        return [
            *(f"{block}.{norm}" for block in self.blocks for norm in self.flow.norms if norm),
            self.flow.final,
        ]

    @torch.no_grad()
    def stream_moment(self, job: Job) -> Tensor:
        """Return the second moment of the residual stream on calibration text, float64 [hidden,
        hidden] on the CPU.

        It is the mean over the tokens that each norm reads, each scaled to norm 1, so that every
        norm and token has the same weight.
        """
        tokens = job.calibration
        assert tokens is not None
        norms, width = self.norms(), self.config.hidden_size
        base: Any = self.model.base_model  # without the head, whose logits are not needed
        total = torch.zeros(width, width, dtype=torch.float64)

        def add(_name: str, x: Tensor) -> None:
            unit = nn.functional.normalize(x.detach().float().flatten(0, -2), dim=-1)
            total.add_((unit.T @ unit).double().cpu())

        batches = tokens.split(batch_of(tokens, job.compute.device))
        with watched(self.model, norms, add):
            for done, part in enumerate(batches, 1):
                base(input_ids=part.to(job.compute.device), use_cache=False)
                job.progress.advance(done, len(batches))
        require_finite(total, "the inputs of the norms")
        return total / (tokens.numel() * len(norms))

    def gain(self, norm: str) -> Tensor | None:
        """Return what a norm multiplies by, float64; None if it has no weight. norm: its name, ""
        for none."""
        weight = getattr(self.model.get_submodule(norm), "weight", None) if norm else None
        return None if weight is None else weight.detach().double() + self.flow.offset

    # How

    @property
    def _head(self) -> str:
        head = self.model.get_output_embeddings()  # type: ignore[operator]
        found: str = next(name for name, module in self.model.named_modules() if module is head)
        return found

    def _untie(self) -> None:
        head, table = self.model.get_output_embeddings(), self.model.get_input_embeddings()  # type: ignore[operator]
        if head.weight is table.weight:
            head.weight = nn.Parameter(table.weight.detach().clone(), requires_grad=False)
            self.config.tie_word_embeddings = False
            self._config["tie_word_embeddings"] = False
            self._outer[f"{self._head}.weight"] = head.weight

    def _norm(self, norm: str, readers: list[str], change: Change, fold: bool) -> None:
        """Change the input of a norm, and what reads its output."""
        weight = self.gain(norm)
        if fold and weight is not None:
            scale = weight.clone()
            for reader in readers:
                self._columns[f"{reader}.weight"].append(Scaling(scale).columns)
            self._norm_edit(
                norm, torch.ones_like, lambda bias: change.vectors(_divide(bias, scale, self.name))
            )
        elif norm:
            self._norm_edit(norm, change.vectors, change.vectors)
        for reader in readers:
            self._columns[f"{reader}.weight"].append(change.columns)

    def _storable(self, norm: str, change: Scaling) -> Scaling:
        """Return the scales nearest to these after which the number format of a norm's weight holds
        it without rounding.

        In bfloat16 a norm that multiplies by 1 + w could be wrong by a tenth and more where w is
        near -1. The scale of a channel that would become zero is 1.
        """
        gain = self.gain(norm)
        if gain is None:
            return change
        offset = self.flow.offset
        stored = change.vectors(gain) - offset
        exact = gain / (stored.to(self._stored).double() + offset)
        return Scaling(torch.where((exact > 0) & exact.isfinite(), exact, 1.0))

    def _norm_edit(self, norm: str, weight: Edit, bias: Edit) -> None:
        """Change what a norm multiplies by, and its bias."""
        module, offset = self.model.get_submodule(norm), self.flow.offset
        if getattr(module, "weight", None) is not None:
            self._columns[f"{norm}.weight"].append(lambda w: weight(w + offset) - offset)
        if getattr(module, "bias", None) is not None:
            self._columns[f"{norm}.bias"].append(bias)

    def _outputs(self, linear: str, edit: Edit) -> None:
        """Change the outputs of a linear."""
        module = self.model.get_submodule(linear)
        self._rows[f"{linear}.weight"].append(edit)
        if getattr(module, "bias", None) is not None:
            self._columns[f"{linear}.bias"].append(edit)

    @torch.no_grad()
    def apply(self) -> frozenset[str]:
        """Make the changes, and return the names of the tensors that they are of."""
        names = set(self._rows) | set(self._columns)
        for name in names:
            parameter = self.model.get_parameter(name)
            value = parameter.double()
            for edit in self._columns[name]:
                value = edit(value)
            for edit in self._rows[name]:
                value = edit(value.T).T
            assign_(parameter, value)
        return frozenset(names)

    def outcome(self, **notes: Any) -> Outcome:
        """Make the changes, and return the model with the names of all changed tensors that are no
        targets."""
        names = self.apply() - {f"{target}.weight" for target in self._targets}
        return Outcome(self.model, changed=names, notes=notes, config=self._config)


def _pruned(mask: Tensor) -> bool:
    """Return whether more weights are zero than training leaves by chance."""
    return int(mask.numel() - mask.count_nonzero()) > 0.01 * mask.numel()


def _divide(bias: Tensor, scale: Tensor, name: str) -> Tensor:
    """Return bias / scale, where a bias of zero stays zero. Raise UserError if a scale is zero, and
    its bias is not."""
    quotient = torch.where(bias == 0, bias, bias / scale)
    if not math.isfinite(float(quotient.abs().sum())):
        raise UserError(
            f"{name} cannot fold a norm whose weight is zero and whose bias is not: use another "
            "transform"
        )
    return quotient
