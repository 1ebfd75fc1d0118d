"""2:4 products on a CUDA device by cuSPARSELt, through torch's operators.

UNVERIFIED: written against the operators' schemas and never run on a device yet; a CPU build has no
schema of `mm_search`. torch's tensor subclass is not used, because it drops split_k.
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

from bench.parts.packed24.timing import Clock, CudaClock, WrongProduct, check_product
from bench.system import digests
from bench.system.cache import cache_dir
from bench.system.files import write_file

TOKEN_MULTIPLE = 16
"""Multiple to which tokens are padded. The library needs 8 for 16-bit values and 16 for 8-bit
values."""
SIDE_MULTIPLES = {torch.bfloat16: 16, torch.float16: 16, torch.int8: 32, torch.float8_e4m3fn: 32}
"""Required multiple of both sides of a weight, by dtype."""
SPLIT_KS = ((2, 1), (2, 2), (4, 1), (4, 2), (8, 1), (8, 2))
"""Pairs of split_k, the number of parts of the width, and split_k_mode, 1 or 2 for one or two
kernels that add them: cusparseLtSplitKMode_t, which torch passes on if it is above 0."""
SAMPLES = 9
REPEATS = 8
"""Products in a CUDA graph while plans are compared."""


class MatmulPlan(NamedTuple):
    """An algorithm of the library for a product."""

    alg_id: int = 0
    split_k: int = 1
    split_k_mode: int = -1


@dataclass(frozen=True)
class PlanChoice:
    """The fastest plan with a right product, and the outcome of the search."""

    plan: MatmulPlan
    plan_count: int
    """Number of plans that were tried."""
    errors: tuple[str, ...] = ()
    """Sentence for each plan with a wrong product."""
    refusal_count: int = 0
    """Number of plans that the library refused."""


class CompressedWeight:
    """A 2:4 weight [out, in] on the device, in the library's layout.

    out_dtype: dtype of the product. None means the weight's.
    """

    def __init__(self, weight: Tensor, clock: Clock, out_dtype: torch.dtype | None = None) -> None:
        self.weight_dtype, self.shape = weight.dtype, tuple(weight.shape)
        self.memory: Tensor = torch._cslt_compress(weight)
        self.clock, self.out_dtype = clock, out_dtype
        self.choices: dict[int, PlanChoice] = {}

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply x [tokens, in] by the transposed weight and add the bias. Search a plan for each
        padded size."""
        count = len(x)
        # The library reads whole rows, so a view with other strides would give a wrong product.
        x = x.contiguous()
        if count % TOKEN_MULTIPLE:  # a pad of 0 copies, too
            x = torch.nn.functional.pad(x, (0, 0, 0, -count % TOKEN_MULTIPLE))
        choice = self.choices.get(len(x))
        if choice is None:
            choice = self.choices[len(x)] = self.choose(x, bias)
        return self.product(x, bias, choice.plan)[:count]

    def product(self, x: Tensor, bias: Tensor | None, plan: MatmulPlan) -> Tensor:
        options = {"out_dtype": self.out_dtype, "transpose_result": True, **plan._asdict()}
        y: Tensor = torch._cslt_sparse_mm(self.memory, x.t(), bias=bias, **options)
        return y

    def choose(self, x: Tensor, bias: Tensor | None, expected: Tensor | None = None) -> PlanChoice:
        """Return the best plan from disk, or search for it. The file depends on library, device,
        shapes and dtypes.

        expected: the product in float32. None compares with the library's default plan.
        """
        case = [self.shape, len(x), str(self.weight_dtype), str(self.out_dtype), bias is not None]
        memory = (
            cache_dir()
            / "cusparselt-plans"
            / f"{digests.of([library_versions(), *case])[:32]}.json"
        )
        if memory.exists():
            known = json.loads(memory.read_text())
            return PlanChoice(
                **known | {"plan": MatmulPlan(*known["plan"]), "errors": tuple(known["errors"])}
            )
        expected = self.product(x, bias, MatmulPlan()).float() if expected is None else expected
        choice = search(
            self._candidates(x, bias),
            lambda plan: self.product(x, bias, plan),
            expected,
            self._seconds,
        )
        write_file(memory, json.dumps(asdict(choice)))
        return choice

    def _candidates(self, x: Tensor, bias: Tensor | None) -> tuple[MatmulPlan, ...]:
        """Return the default plan, the library's own choice, every algorithm, and that choice with
        a split width."""
        library: Any = torch._C._cusparselt
        try:
            alg_id, split_k, split_k_mode, alg_count = library.mm_search(
                self.memory, x.t(), bias, None, self.out_dtype, True
            )
        except RuntimeError:  # not for this case
            return (MatmulPlan(), *(MatmulPlan(0, *s) for s in SPLIT_KS))
        every = [MatmulPlan(alg_id=i) for i in range(alg_count)]
        own, split = (
            MatmulPlan(alg_id, split_k, split_k_mode),
            [MatmulPlan(alg_id, *s) for s in SPLIT_KS],
        )
        return tuple(dict.fromkeys((MatmulPlan(), own, *every, *split)))

    def _seconds(self, work: Callable[[], Any]) -> float:
        # Planning a product takes the host longer than a small product takes.
        if isinstance(self.clock, CudaClock):
            work = self.clock.without_host(work, REPEATS)
        self.clock.measure(work, 2)
        return statistics.median(self.clock.measure(work, SAMPLES))


def search(
    plans: Iterable[MatmulPlan],
    product: Callable[[MatmulPlan], Tensor],
    expected: Tensor,
    seconds: Callable[[Callable[[], Any]], float],
) -> PlanChoice:
    """Return the fastest plan with a right product, or raise WrongProduct. Some algorithms give
    wrong results."""
    best: tuple[float, MatmulPlan] | None = None
    errors, refusals, plan_count = [], 0, 0
    for plan in plans:
        plan_count += 1
        try:
            check_product(
                f"algorithm {plan.alg_id} (split_k {plan.split_k})", product(plan), expected
            )
            took = seconds(lambda plan=plan: product(plan))  # type: ignore[misc]
        except WrongProduct as fault:
            errors.append(str(fault))
        except RuntimeError:
            refusals += 1
        else:
            best = min(best or (took, plan), (took, plan))
    if best is None:
        raise WrongProduct(f"none of cuSPARSELt's {plan_count} plans gives the right product")
    return PlanChoice(best[1], plan_count, tuple(errors), refusals)


def library_versions() -> list[str]:
    """Return the versions of the library, CUDA and torch, and the device, for which a choice is
    valid."""
    library = torch.backends.cusparselt.version()
    return [str(library), str(torch.version.cuda), torch.cuda.get_device_name(), torch.__version__]
