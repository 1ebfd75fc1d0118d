"""AdamS: Adam whose pruned weights are pulled to zero inside the adaptive step. CAST, arXiv 2509.25996.

No official code exists. Standing of each fact: [p] quoted from the paper by two independent sources, [s] one secondary
source, [i] inferred.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from methods.pattern import Pattern
from methods.pruning import selection
from methods.training.ranks import all_reduce_sum, local

CHUNK = 65536
"""Weights per thread handled at a time on a CPU: all the passes of a step over them stay in its cache."""
COMPILED_FROM = 10_000_000
"""Weights from which a compiled kernel is worth the half minute that compiling takes."""


class Scalars(NamedTuple):
    """A step's numbers; the paper's letters."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    alpha: float
    """How far the pull has taken over from the gradient, 0 to 1."""
    lambda_: float
    """Its strength."""
    t: int
    """Counts from 0."""

    @property
    def rate(self) -> float:
        return self.lr / (1 - self.beta1 ** (self.t + 1))

    @property
    def root(self) -> float:
        return math.sqrt(1 - self.beta2 ** (self.t + 1))


def reference(w: Tensor, g: Tensor, mu: Tensor, v: Tensor, keep: Tensor, s: Scalars) -> None:
    """One step, in place, as the equations read; slow. All tensors have w's shape.

    The momentum takes the raw gradient only, so a weight that wins its place back is free at once [p]. v is fed by
    what moves the weight, pull included, and not by g^2 [p]; so the pull shares Adam's denominator.
    """
    mu.copy_(s.beta1 * mu + (1 - s.beta1) * g)
    pulled = (1 - s.alpha) * mu + s.alpha * s.lambda_ * w.sign()
    moved = torch.where(keep, mu, pulled)
    v.copy_(s.beta2 * v + (1 - s.beta2) * moved**2)
    mu_hat = moved / (1 - s.beta1 ** (s.t + 1))
    v_hat = v / (1 - s.beta2 ** (s.t + 1))
    w.sub_(s.lr * mu_hat / (v_hat.sqrt() + s.eps))


Tensors = list[Tensor] | tuple[Tensor, ...]


def foreach(w: Tensors, g: Tensors, mu: Tensors, v: Tensors, keep: Tensors, s: Scalars) -> None:
    """The same, a list of tensors an operation."""
    torch._foreach_lerp_(mu, g, 1 - s.beta1)
    if keep and s.alpha:
        pull: Tensors = torch._foreach_sign(w)
        torch._foreach_mul_(pull, s.lambda_)
        torch._foreach_sub_(pull, mu)
        torch._foreach_mul_(pull, [marks.view(torch.uint8) ^ 1 for marks in keep])  # a CPU fills by a mask one by one
        moved: Tensors = torch._foreach_add(mu, pull, alpha=s.alpha)
    else:
        moved = mu if keep else g  # outside Theta plain Adam, whose second moment is the gradient's
    torch._foreach_mul_(v, s.beta2)
    torch._foreach_addcmul_(v, moved, moved, 1 - s.beta2)
    below = torch._foreach_sqrt(v)
    torch._foreach_add_(below, s.eps * s.root)
    torch._foreach_addcdiv_(w, moved if keep else mu, below, -s.rate * s.root)


@cache
def _compiled() -> Callable[..., None]:
    def step(w: Tensor, g: Tensor, mu: Tensor, v: Tensor, keep: Tensor, numbers: Tensor) -> None:
        up1, beta2, up2, eps, alpha, pull, rate, root = numbers.unbind()
        new_mu = mu + up1 * (g - mu)
        dropped = 1 - keep.to(w.dtype)
        sign = (w * 1e38).clamp(-1, 1)  # of all |w| above 1e-38; the compiler's own sign takes half as long again
        moved = new_mu + dropped * (pull * sign - alpha * new_mu)
        new_v = beta2 * v + up2 * moved * moved
        new_w = w - rate * moved / (new_v.sqrt() * root + eps)
        for old, new in ((w, new_w), (mu, new_mu), (v, new_v)):
            old.copy_(new)

    # rounding once for a product and its sum; without it a CPU waits for the arithmetic and not for the memory
    contracted: dict[str, Any] = {"cpp.enable_floating_point_contract_flag": "fast"}
    return torch.compile(step, dynamic=True, fullgraph=True, options=contracted)


def fused(w: Tensors, g: Tensors, mu: Tensors, v: Tensors, keep: Tensors, s: Scalars) -> None:
    """The same in one compiled pass over each tensor, 29 bytes a weight of fp32: read w, g, mu, v, keep; write w, mu, v."""
    numbers = torch.tensor(
        [1 - s.beta1, s.beta2, 1 - s.beta2, s.eps, s.alpha, s.alpha * s.lambda_, s.rate, 1 / s.root], device=w[0].device
    )
    for w_, g_, mu_, v_, keep_ in zip(w, g, mu, v, keep, strict=True):
        bits = keep_.view(torch.uint8)  # a vector of bools is read one by one
        _compiled()(*(x.view(-1) for x in (w_, g_, mu_, v_, bits)), numbers)


def one_by_one(w: Tensors, g: Tensors, mu: Tensors, v: Tensors, keep: Tensors, s: Scalars) -> None:
    """`reference` over lists."""
    for each in zip(w, g, mu, v, keep, strict=True):
        reference(*each, s)


KERNELS = {"reference": one_by_one, "foreach": foreach, "fused": fused}


def _pieces(lists: Sequence[Tensors]) -> Iterator[Sequence[Tensors]]:
    """On a CPU, a cache's worth at a time: the passes of `foreach` then meet memory once."""
    if not lists[0] or lists[0][0].device.type != "cpu":
        yield lists
        return
    chunk = CHUNK * torch.get_num_threads()
    for tensors in zip(*lists, strict=True):
        for parts in zip(*(t.view(-1).split(chunk) for t in tensors), strict=True):
            yield [[p] for p in parts]


class AdamS(torch.optim.Optimizer):
    """Groups with `sparse=True` are Theta, the weights to prune; the others get plain Adam at the same rate [i].

    Every `refresh` steps the n largest |w| of each group of m are marked to keep [p]; the pull on the others grows
    with alpha = t / total [p]. `finish` sets what is not kept to zero.

    Args:
        total: the number of steps planned, T.
        lambda_: strength of the pull; "auto" measures the mean |momentum| over Theta in the first `refresh` steps,
            times `gain`, and keeps that.
        fixed: the first mask stays.
        decoupled: the pull acts on the weight outside the adaptive step, as in AST (arXiv 2407.20584): an ablation.
        kernel: "reference", "foreach", "fused", or "auto": fused where a compiler is there and the model is large.
            They differ by rounding.

    State, a weight of Theta: `mu` and `v` as the weight, `keep` bool. A `transposed` group holds [in, out].
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        total: int,
        pattern: Pattern,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        lambda_: float | str = "auto",
        gain: float = 100.0,
        refresh: int = 10,
        fixed: bool = False,
        decoupled: bool = False,
        kernel: str = "auto",
    ) -> None:
        auto = lambda_ == "auto"
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "lambda_": 0.0 if auto else float(lambda_),
            "sparse": False,
            "transposed": False,
            "step": 0,
        }
        super().__init__(params, defaults)
        self.total, self.pattern, self.refresh = total, pattern, refresh
        self.auto, self.gain, self.fixed, self.decoupled = auto, gain, fixed, decoupled
        if kernel == "auto":
            size = sum(local(p).numel() for p in self._theta())
            kernel = "fused" if size >= COMPILED_FROM and shutil.which("c++") else "foreach"
        self.kernel = kernel
        self.figures: dict[str, float] = {}
        """As of the last refresh: S, the kept share of |w|; flips, the share of weights whose mark changed; alpha."""
        for p in self._all():
            self.state[p] = {"mu": torch.zeros_like(p), "v": torch.zeros_like(p)}
        for p in self._theta():
            self.state[p]["keep"] = torch.ones_like(p, dtype=torch.bool)

    def _all(self) -> Iterator[Tensor]:
        return (p for group in self.param_groups for p in group["params"])

    def _theta(self) -> Iterator[Tensor]:
        return (p for group in self.param_groups if group["sparse"] for p in group["params"])

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update from the gradients as they are."""
        t = self.param_groups[0]["step"]
        if t % self.refresh == 0:
            self.mark(choose=t == 0 or not self.fixed)
        if self.auto and t < self.refresh:
            self._measure_lambda(t)
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            alpha = min(1.0, t / self.total)
            s = Scalars(group["lr"], beta1, beta2, group["eps"], alpha, group["lambda_"], group["step"])
            self._update([p for p in group["params"] if p.grad is not None], group["sparse"], s)
            group["step"] += 1

    def _update(self, params: list[Tensor], sparse: bool, s: Scalars) -> None:
        w = [local(p) for p in params]
        g = [local(p.grad) for p in params]  # type: ignore[arg-type]
        state = [self.state[p] for p in params]
        mu, v = [local(x["mu"]) for x in state], [local(x["v"]) for x in state]
        if not sparse:
            for w_, g_, mu_, v_ in _pieces([w, g, mu, v]):
                foreach(w_, g_, mu_, v_, [], s)
            return
        keep = [local(x["keep"]) for x in state]
        inside = s._replace(alpha=0.0) if self.decoupled else s
        run = KERNELS[self.kernel]
        lists = [w, g, mu, v, keep]
        for w_, g_, mu_, v_, keep_ in _pieces(lists) if run is foreach else [lists]:
            run(w_, g_, mu_, v_, keep_, inside)
        if self.decoupled:  # an L1 pull of the same schedule that no denominator divides, stopping at zero
            for x, stays in zip(w, keep, strict=True):
                shrunk = x.sign() * (x.abs() - s.lr * s.alpha).relu()
                x.copy_(torch.where(stays, x, shrunk))

    @torch.no_grad()
    def mark(self, choose: bool = True) -> None:
        """Choose anew which weights to keep, or leave the marks, and take the figures."""
        sums, weights = [], 0.0
        for group in self.param_groups:
            for p in group["params"] if group["sparse"] else ():
                w, mark = local(p), local(self.state[p]["keep"])
                if group["transposed"]:
                    w, mark = w.T, mark.T
                if choose:
                    sums.append(selection.remark(w, mark, self.pattern.n, self.pattern.m))
                else:
                    sums.append(selection.measure(w.abs(), mark, torch.zeros_like(mark)))
                weights += w.numel()
        mine = torch.stack(sums).sum(0).tolist() if sums else [0.0, 0.0, 0.0]
        left, everything, flips, weights = all_reduce_sum(*mine, weights)
        t = self.param_groups[0]["step"]
        self.figures = {
            "S": left / everything if everything else 1.0,
            "flips": flips / max(1.0, weights) if t else 0.0,
            "alpha": t / self.total,
        }

    def _measure_lambda(self, t: int) -> None:
        """The mean |mu^| that this step will have, over Theta."""
        size = count = 0.0
        for group in self.param_groups:
            beta1 = group["betas"][0]
            for p in group["params"] if group["sparse"] else ():
                if p.grad is not None:
                    mu = torch.lerp(local(self.state[p]["mu"]), local(p.grad), 1 - beta1)
                    size += float(mu.abs().sum(dtype=torch.float64)) / (1 - beta1 ** (t + 1))
                    count += mu.numel()
        size, count = all_reduce_sum(size, count)
        for group in self.param_groups:
            group["lambda_"] = self.gain * size / max(1.0, count)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's own, which gives every state the dtype of its weight; `keep` stays bool."""
        super().load_state_dict(state_dict)
        for p in self._theta():
            self.state[p]["keep"] = self.state[p]["keep"].bool()

    @torch.no_grad()
    def finish(self) -> None:
        """Mark once more and set to zero what is not kept: exactly n of every m stay, ties by index [p]."""
        self.mark(choose=not self.fixed)
        for p in self._theta():
            local(p).masked_fill_(~local(self.state[p]["keep"]), 0)
