"""AdamS: Adam that pulls pruned weights to zero inside the adaptive step. CAST, arXiv 2509.25996.

No official code exists. Source of each fact: [p] the paper, quoted by two independent sources; [s]
one secondary source; [i] inferred.
"""

from __future__ import annotations

import importlib.util
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from methods import Pattern
from methods.workshop.pruning import selection
from methods.workshop.training.batch_upload import upload
from methods.workshop.training.process_group import all_reduce_sum, is_single_process, local

CHUNK = 65536
"""Weights per thread processed at a time on a CPU, so that they stay in the cache during a step."""
MIN_COMPILED_WEIGHTS = 10_000_000
"""Number of weights from which on a compiled kernel saves more than the half minute of its
compilation."""


class Scalars(NamedTuple):
    """The numbers of one step, with the paper's letters."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    alpha: float
    """Weight of the pull against the momentum, 0 to 1."""
    lambda_: float | Tensor
    """Strength of the pull; a tensor on a card while it is measured."""
    t: int
    """The step, from 0."""

    @property
    def rate(self) -> float:
        return self.lr / (1 - self.beta1 ** (self.t + 1))

    @property
    def root(self) -> float:
        return math.sqrt(1 - self.beta2 ** (self.t + 1))


def reference(w: Tensor, g: Tensor, mu: Tensor, v: Tensor, keep: Tensor, s: Scalars) -> None:
    """Take one step, in place, by the equations. Slow. All tensors have w's shape.

    The momentum is of the gradient alone, so a weight that is kept again moves freely at once [p].
    v is updated with the update itself, pull included, and not with g^2 [p]; so the pull is divided
    by Adam's denominator too.
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
    """Take the same step, with one operation for a list of tensors."""
    torch._foreach_lerp_(mu, g, 1 - s.beta1)
    if keep and s.alpha:
        pull: Tensors = torch._foreach_sign(w)
        torch._foreach_mul_(pull, s.lambda_)
        torch._foreach_sub_(pull, mu)
        # masked_fill is slow on a CPU.
        torch._foreach_mul_(pull, [mask.view(torch.uint8) ^ 1 for mask in keep])
        moved: Tensors = torch._foreach_add(mu, pull, alpha=s.alpha)
    else:
        # Outside Theta plain Adam: the second moment of the gradient.
        moved = mu if keep else g
    torch._foreach_mul_(v, s.beta2)
    torch._foreach_addcmul_(v, moved, moved, 1 - s.beta2)
    denominator = torch._foreach_sqrt(v)
    torch._foreach_add_(denominator, s.eps * s.root)
    torch._foreach_addcdiv_(w, moved if keep else mu, denominator, -s.rate * s.root)


@cache
def _compiled() -> Callable[..., None]:
    def step(w: Tensor, g: Tensor, mu: Tensor, v: Tensor, keep: Tensor, numbers: Tensor) -> None:
        up1, beta2, up2, eps, alpha, pull, rate, root = numbers.unbind()
        new_mu = mu + up1 * (g - mu)
        dropped = 1 - keep.to(w.dtype)
        # for |w| above 1e-38; the sign function takes 1.5 times as long
        sign = (w * 1e38).clamp(-1, 1)
        moved = new_mu + dropped * (pull * sign - alpha * new_mu)
        new_v = beta2 * v + up2 * moved * moved
        new_w = w - rate * moved / (new_v.sqrt() * root + eps)
        for old, new in ((w, new_w), (mu, new_mu), (v, new_v)):
            old.copy_(new)

    # rounding once for a product and its sum; without it a CPU waits for the arithmetic and not for
    # the memory
    contracted: dict[str, Any] = {"cpp.enable_floating_point_contract_flag": "fast"}
    return torch.compile(step, dynamic=True, fullgraph=True, options=contracted)


def fused(w: Tensors, g: Tensors, mu: Tensors, v: Tensors, keep: Tensors, s: Scalars) -> None:
    """Take the same step in one compiled pass over 29 bytes per float32 weight: w, mu and v twice,
    g and keep once."""
    is_read = isinstance(s.lambda_, float)  # else it is on the device
    pull = s.alpha * s.lambda_ if is_read else 0.0
    numbers = upload(
        torch.tensor([1 - s.beta1, s.beta2, 1 - s.beta2, s.eps, s.alpha, pull, s.rate, 1 / s.root]),
        w[0].device,
    )
    if not is_read:
        numbers[5] = s.alpha * s.lambda_
    for w_, g_, mu_, v_, keep_ in zip(w, g, mu, v, keep, strict=True):
        bits = keep_.view(torch.uint8)  # bools would be read one by one
        _compiled()(*(x.view(-1) for x in (w_, g_, mu_, v_, bits)), numbers)


def one_by_one(w: Tensors, g: Tensors, mu: Tensors, v: Tensors, keep: Tensors, s: Scalars) -> None:
    """Run `reference` over lists."""
    for each in zip(w, g, mu, v, keep, strict=True):
        reference(*each, s)


KERNELS = {"reference": one_by_one, "foreach": foreach, "fused": fused}


def _chunks(lists: Sequence[Tensors]) -> Iterator[Sequence[Tensors]]:
    """Yield parts that fit the cache of a CPU, so that the passes of `foreach` read memory once."""
    if not lists[0] or lists[0][0].device.type != "cpu":
        yield lists
        return
    chunk = CHUNK * torch.get_num_threads()
    for tensors in zip(*lists, strict=True):
        for parts in zip(*(t.view(-1).split(chunk) for t in tensors), strict=True):
            yield [[p] for p in parts]


class AdamS(torch.optim.Optimizer):
    """Groups with `sparse=True` are Theta, the weights to prune. The others get plain Adam at the
    same rate [i].

    Every `refresh` steps the mask is updated to the n largest |w| of every m [p]. The pull on the
    other weights grows with alpha = t / total [p]. `apply_mask` sets them to zero.

    Args:
        total: number of steps of the whole training, T.
        lambda_: strength of the pull. "auto": `lambda_scale` times the mean |momentum| over Theta,
            corrected for bias. Step `refresh` has the last such value, which then stays.
        fixed: keep the first mask.
        decoupled: pull the weight outside the adaptive step, as AST does (arXiv 2407.20584). An
            ablation.
        kernel: "reference", "foreach", "fused", or "auto": fused if there is a compiler and the
            model is large. They differ in rounding.

    State of a weight in Theta: `mu`, `v`, and the mask `keep`, bool.
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
        lambda_scale: float = 100.0,
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
            "step": 0,
        }
        super().__init__(params, defaults)
        self.total, self.pattern, self.refresh = total, pattern, refresh
        self.auto, self.lambda_scale, self.fixed, self.decoupled = (
            auto,
            lambda_scale,
            fixed,
            decoupled,
        )
        if kernel == "auto":
            size = sum(local(p).numel() for p in self._theta())
            kernel = "fused" if size >= MIN_COMPILED_WEIGHTS and self._has_compiler() else "foreach"
        self.kernel = kernel
        self._metrics: dict[str, float] = {}
        self._unread: tuple[Tensor, float, int] | None = None
        for p in self._all():
            self.state[p] = {"mu": torch.zeros_like(p), "v": torch.zeros_like(p)}
        for p in self._theta():
            self.state[p]["keep"] = torch.ones_like(p, dtype=torch.bool)

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics of the last refresh: S, the share of |w| that is kept; flipped, the share of the
        mask that changed so far; alpha. A weight that changes twice counts twice. Raise
        FloatingPointError if a weight was NaN.
        """
        if self._unread is not None:
            (sums, weights, t), self._unread = self._unread, None
            kept, total, flips, weights = all_reduce_sum(*sums.tolist(), weights)
            if math.isnan(total):
                raise FloatingPointError("a weight is NaN")
            self._metrics = {
                "S": kept / total if total else 1.0,
                "flipped": self._metrics.get("flipped", 0.0) + flips / max(1.0, weights),
                "alpha": t / self.total,
            }
        return self._metrics

    @metrics.setter
    def metrics(self, metrics: dict[str, float]) -> None:
        self._metrics, self._unread = metrics, None

    def _all(self) -> Iterator[Tensor]:
        return (p for group in self.param_groups for p in group["params"])

    def _has_compiler(self) -> bool:
        """Return whether there is a compiler: Triton for a CUDA device, else the system's."""
        on_card = any(p.device.type == "cuda" for p in self._all())
        if on_card:
            return importlib.util.find_spec("triton") is not None
        return shutil.which("c++") is not None

    def _theta(self) -> Iterator[Tensor]:
        return (p for group in self.param_groups if group["sparse"] for p in group["params"])

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step with the current gradients."""
        t = self.param_groups[0]["step"]
        if t % self.refresh == 0:
            self.update_mask(choose=t == 0 or not self.fixed)
        if self.auto and t < self.refresh:
            self._measure_lambda(t)
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            alpha = min(1.0, t / self.total)
            s = Scalars(
                group["lr"], beta1, beta2, group["eps"], alpha, group["lambda_"], group["step"]
            )
            self._update([p for p in group["params"] if p.grad is not None], group["sparse"], s)
            group["step"] += 1

    def _update(self, params: list[Tensor], sparse: bool, s: Scalars) -> None:
        w = [local(p) for p in params]
        g = [local(p.grad) for p in params]  # type: ignore[arg-type]
        state = [self.state[p] for p in params]
        mu, v = [local(x["mu"]) for x in state], [local(x["v"]) for x in state]
        if not sparse:
            for w_, g_, mu_, v_ in _chunks([w, g, mu, v]):
                foreach(w_, g_, mu_, v_, [], s)
            return
        keep = [local(x["keep"]) for x in state]
        scalars = s._replace(alpha=0.0) if self.decoupled else s
        run = KERNELS[self.kernel]
        lists = [w, g, mu, v, keep]
        chunks = _chunks(lists) if run is foreach else [lists]
        for w_, g_, mu_, v_, keep_ in chunks:
            run(w_, g_, mu_, v_, keep_, scalars)
        # An L1 pull with the same schedule, not divided by a denominator, that stops at zero.
        if self.decoupled:
            for x, mask in zip(w, keep, strict=True):
                shrunk = x.sign() * (x.abs() - s.lr * s.alpha).relu()
                x.copy_(torch.where(mask, x, shrunk))

    @torch.no_grad()
    def update_mask(self, choose: bool = True) -> None:
        """Choose the mask again, unless `choose` is false, and update the metrics."""
        sums, weights = [], 0.0
        for group in self.param_groups:
            if not group["sparse"]:
                continue
            for p in group["params"]:
                w, mask = local(p), local(self.state[p]["keep"])
                if choose:
                    sums.append(selection.update_mask(self.score(p, w), mask, self.pattern))
                else:
                    sums.append(
                        selection.mask_metrics(self.score(p, w).abs(), mask, torch.zeros_like(mask))
                    )
                weights += w.numel()
        total = torch.stack(sums).sum(0) if sums else torch.zeros(3, dtype=torch.float64)
        t = self.param_groups[0]["step"]
        if t == 0:  # the first mask changes none
            total[2] = 0
        elif self._unread is not None:
            total[2] += self._unread[0][2]
        self._unread = total, weights, t
        # all ranks read at the same time; a card is not waited for
        if total.device.type == "cpu" or not is_single_process():
            _ = self.metrics

    def score(self, p: Tensor, w: Tensor) -> Tensor:
        """Return the score of a weight in Theta. The largest sizes of a group are kept. w: [out,
        in]."""
        return w

    def _measure_lambda(self, t: int) -> None:
        """Set lambda from the mean |mu^| over Theta in this step. On a card it stays there until
        the last such step."""
        sizes: list[tuple[Tensor, float]] = []
        count = 0.0
        for group in self.param_groups:
            if not group["sparse"]:
                continue
            beta1 = group["betas"][0]
            for p in group["params"]:
                if p.grad is not None:
                    mu = torch.lerp(local(self.state[p]["mu"]), local(p.grad), 1 - beta1)
                    sizes.append((mu.abs().sum(dtype=torch.float64), 1 - beta1 ** (t + 1)))
                    count += mu.numel()
        strength: float | Tensor
        if sizes and sizes[0][0].device.type != "cpu" and is_single_process():
            strength = (
                self.lambda_scale
                * torch.stack([size / share for size, share in sizes]).sum()
                / max(1.0, count)
            )
            # the notes need a number, also of a training with fewer steps
            if t + 1 >= min(self.refresh, self.total):
                strength = float(strength)
        else:
            size, count = all_reduce_sum(sum(float(size) / share for size, share in sizes), count)
            strength = self.lambda_scale * size / max(1.0, count)
        for group in self.param_groups:
            group["lambda_"] = strength

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state. torch gives every tensor the dtype of its weight, but `keep` stays bool."""
        super().load_state_dict(state_dict)
        for p in self._theta():
            self.state[p]["keep"] = self.state[p]["keep"].bool()

    @torch.no_grad()
    def apply_mask(self) -> None:
        """Update the mask and set the other weights to zero: n of every m are kept, of equal ones
        the first [p]."""
        self.update_mask(choose=not self.fixed)
        for p in self._theta():
            local(p).masked_fill_(~local(self.state[p]["keep"]), 0)
