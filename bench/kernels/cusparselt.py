"""2:4 products on a CUDA device by cuSPARSELt, through torch's own operators, called directly.

UNVERIFIED: written against their schemas, and never yet run on a device; a CPU build has no schema of `mm_search`. The
tensor subclass that torch offers drops split_k, so it is not used.
https://github.com/pytorch/pytorch/blob/main/torch/csrc/cuda/shared/cusparselt.cpp
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.kernels.timing import Clock, WrongProduct, check_product
from bench.system import digests
from bench.system.cache import cache_dir
from bench.system.files import atomic_write

TOKEN_MULTIPLE = 16
"""Tokens are padded to a multiple: the library wants 8 of 16-bit values, 16 of 8-bit ones."""
SIDE_MULTIPLES = {torch.bfloat16: 16, torch.float16: 16, torch.int8: 32, torch.float8_e4m3fn: 32}
"""What both sides of a weight must be a multiple of."""
SPLIT_KS = ((2, 0), (2, 1), (4, 0), (4, 1), (8, 0), (8, 1))
"""(split_k, split_k_mode): the width in so many parts, added up in one kernel or in two."""
SAMPLES = 9


class Plan(NamedTuple):
    """One of the library's ways to do a product."""

    alg_id: int = 0
    split_k: int = 1
    split_k_mode: int = -1


@dataclass(frozen=True)
class PlanChoice:
    """The fastest plan whose product is right, and what was seen on the way."""

    plan: Plan
    tried: int
    wrong: tuple[str, ...] = ()
    """Plans whose product is not the one float32 gives."""
    refused: int = 0
    """Plans that the library would not run."""


class CompressedWeight:
    """A 2:4 weight [out, in] on the device, in the library's own layout.

    out_dtype: of the product; None is the weight's.
    """

    def __init__(self, weight: Tensor, clock: Clock, out_dtype: torch.dtype | None = None) -> None:
        self.weight_dtype, self.shape = weight.dtype, tuple(weight.shape)
        self.memory: Tensor = torch._cslt_compress(weight)
        self.clock, self.out_dtype = clock, out_dtype
        self.choices: dict[int, PlanChoice] = {}

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x [tokens, in] times the weight transposed, plus bias: [tokens, out]. Searches once a padded size."""
        count = len(x)
        x = torch.nn.functional.pad(x, (0, 0, 0, -count % TOKEN_MULTIPLE))
        choice = self.choices.get(len(x))
        if choice is None:
            choice = self.choices[len(x)] = self.choose(x, bias)
        return self.product(x, bias, choice.plan)[:count]

    def product(self, x: Tensor, bias: Tensor | None, plan: Plan) -> Tensor:
        y: Tensor = torch._cslt_sparse_mm(
            self.memory,
            x.t(),
            bias=bias,
            out_dtype=self.out_dtype,
            transpose_result=True,
            alg_id=plan.alg_id,
            split_k=plan.split_k,
            split_k_mode=plan.split_k_mode,
        )
        return y

    def choose(self, x: Tensor, bias: Tensor | None, wanted: Tensor | None = None) -> PlanChoice:
        """Remembered on disk by library, device, shapes and dtypes; else searched for.

        wanted: what float32 gives; None holds all against the library's default plan.
        """
        what = [self.shape, len(x), str(self.weight_dtype), str(self.out_dtype), bias is not None]
        memory = cache_dir() / "cusparselt" / f"{digests.of([library_versions(), *what])[:32]}.json"
        if memory.exists():
            known = json.loads(memory.read_text())
            return PlanChoice(**known | {"plan": Plan(*known["plan"]), "wrong": tuple(known["wrong"])})
        wanted = self.product(x, bias, Plan()).float() if wanted is None else wanted
        choice = search(
            self._candidates(x, bias),
            lambda plan: self.product(x, bias, plan),
            wanted,
            lambda work: self._seconds(work),
        )
        with atomic_write(memory) as temporary:
            temporary.write_text(json.dumps(asdict(choice)))
        return choice

    def _candidates(self, x: Tensor, bias: Tensor | None) -> tuple[Plan, ...]:
        """The default, what the library's own search finds, every algorithm, and the found one with the width split."""
        library: Any = torch._C._cusparselt
        found = library.mm_search(self.memory, x.t(), bias, None, self.out_dtype, True)
        alg_id, split_k, split_k_mode, most = found
        every = [Plan(alg_id=i) for i in range(most)]
        return tuple(
            dict.fromkeys((Plan(), Plan(alg_id, split_k, split_k_mode), *every, *(Plan(alg_id, *s) for s in SPLIT_KS)))
        )

    def _seconds(self, work: Callable[[], Any]) -> float:
        self.clock.samples(work, 2)
        return statistics.median(self.clock.samples(work, SAMPLES))


def search(
    plans: Iterable[Plan],
    product: Callable[[Plan], Tensor],
    wanted: Tensor,
    seconds: Callable[[Callable[[], Any]], float],
) -> PlanChoice:
    """The fastest plan whose product is right. A known algorithm id returns wrong results: none is timed unchecked.

    Raises:
        WrongProduct: there is none.
    """
    best: tuple[float, Plan] | None = None
    wrong, refused, tried = [], 0, 0
    for plan in plans:
        tried += 1
        try:
            check_product(f"algorithm {plan.alg_id} (split_k {plan.split_k})", product(plan), wanted)
            took = seconds(lambda plan=plan: product(plan))  # type: ignore[misc]
        except WrongProduct as fault:
            wrong.append(str(fault))
        except RuntimeError:  # what the library cannot do for this shape
            refused += 1
        else:
            best = min(best or (took, plan), (took, plan))
    if best is None:
        raise WrongProduct(f"none of cuSPARSELt's {tried} plans gives the right product")
    return PlanChoice(best[1], tried, tuple(wrong), refused)


def library_versions() -> list[str]:
    """What a choice holds for: library, driver side and device."""
    library = torch.backends.cusparselt.version()
    return [str(library), str(torch.version.cuda), torch.cuda.get_device_name(), torch.__version__]
