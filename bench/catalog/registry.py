"""Every method and measure by name, as lazy strings: listing them imports none of them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from bench.system.suggest import describe_unknown
from methods.errors import UserError


@dataclass(frozen=True)
class Cost:
    """What a method takes beside the model itself: `bench.costs` works it out for a LLaMA2-7B, as an estimate.

    A method that trains is given the tokens of the recipe for that size, where `tokens` does not say otherwise.
    """

    passes: float = 0
    """Forward passes over the calibration tokens."""
    hessians: float = 0
    """float32 matrices [in, in] kept per distinct input of a block."""
    training: float = 0
    """FLOP per weight and training token: 2 a forward, 4 a backward."""
    tokens: float | None = None
    """Of training."""
    state: float = 0
    """Bytes a weight: gradients, moments, masks, a teacher."""
    also: str = ""
    """What these leave out; a figure somebody measured only with its source."""


@dataclass(frozen=True)
class Entry:
    """One name. `needs` repeats the class's own, in words, for those who must know it without importing."""

    target: str
    needs: tuple[str, ...] = ()
    about: str = ""
    paper: str = ""
    """arXiv's number; "none" for what has no paper."""
    year: int | None = None
    presets: dict[str, dict[str, Any]] = field(default_factory=dict)
    dense: bool = False
    """Its model is dense whatever pattern was asked for: a control."""
    prior: str = ""
    """The stage it refines where no `from=` was typed."""
    cost: Cost | None = None
    """None: nobody said."""
    extra: str = ""
    """Of cast-bench's: what it is installed with."""
    environment: str = ""
    """Of `bench env create`: what it runs in."""
    refines: bool = False
    """It has no start of its own: without a `prior`, `from=` must be typed."""
    file: str = ""
    """A field that names a file; where it was typed nothing else is needed, and field `sha256` says what is in it."""
    broken: str = ""
    """Why it cannot be imported."""

    @property
    def module(self) -> str:
        return self.target.split(":")[0]

    @property
    def trains(self) -> bool:
        return "training" in self.needs

    def needs_with(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        """What it needs as typed."""
        return () if self.file and config.get(self.file) else self.needs


_TRAINED = Cost(training=6, state=16)
"""A forward and a backward; master, gradient and two moments in float32."""

_DISTILLED = Cost(training=8, state=18)
"""And a forward of the teacher, in bfloat16."""

_EACH = 1.3
"""Hessians of a library that makes one for each linear and not for each input: (6 4096^2 + 11008^2) of (3 4096^2 + 11008^2)."""

METHODS = {
    "dense": Entry("baselines.dense:Dense", about="nothing done: the control", paper="none", dense=True, cost=Cost()),
    "magnitude": Entry(
        "baselines.magnitude:Magnitude",
        about="keep the largest |W|",
        paper="1506.02626",
        year=2015,
        cost=Cost(also="one look at each weight"),
    ),
    "wanda": Entry(
        "baselines.wanda:Wanda",
        ("calibration",),
        "keep the largest |W| * ||X||",
        "2306.11695",
        2023,
        cost=Cost(passes=2),
    ),
    "sparsegpt": Entry(
        "baselines.sparsegpt:SparseGPT",
        ("calibration",),
        "prune column by column, the rest makes up",
        "2301.00774",
        2023,
        presets={"mask-only": {"mask_only": True}},
        cost=Cost(passes=2, hessians=1),
    ),
    "llmcompressor-sparsegpt": Entry(
        "baselines.llmcompressor:LlmCompressorSparseGPT",
        ("calibration",),
        "llm-compressor's SparseGPT",
        "2301.00774",
        2023,
        cost=Cost(passes=2, hessians=_EACH),
        extra="llmcompressor",
    ),
    "llmcompressor-wanda": Entry(
        "baselines.llmcompressor:LlmCompressorWanda",
        ("calibration",),
        "llm-compressor's Wanda",
        "2306.11695",
        2023,
        cost=Cost(passes=2),
        extra="llmcompressor",
    ),
    "sparseml-sparsegpt": Entry(
        "baselines.sparseml:SparsemlSparseGPT",
        ("calibration", "isolated"),
        "SparseML's SparseGPT",
        "2301.00774",
        2023,
        cost=Cost(passes=32, hessians=_EACH, also="the whole model is run anew for each block"),
        environment="sparseml",
    ),
    "sparseml-magnitude": Entry(
        "baselines.sparseml:SparsemlMagnitude",
        ("isolated",),
        "SparseML's magnitude",
        "1506.02626",
        2015,
        cost=Cost(also="one look at each weight"),
        environment="sparseml",
    ),
    "ria": Entry(
        "baselines.ria:Ria",
        ("calibration",),
        "what matters to its row and column, times ||X||^0.5",
        "ICLR 2024",
        2024,
        cost=Cost(passes=2),
    ),
    "dsnot": Entry(
        "baselines.dsnot:DSnoT",
        ("calibration", "teacher"),
        "swap weights of a mask so that the outputs' expected error shrinks",
        "2310.08915",
        2023,
        refines=True,
        cost=Cost(passes=3, also="a dense model beside it"),
    ),
    "admm": Entry(
        "baselines.admm:Admm",
        ("calibration",),
        "least squares under the pattern by ADMM, the mask growing",
        "2401.02938",
        2024,
        presets={"fixed-mask": {"gradual": 0}},
        cost=Cost(passes=2, hessians=1, also="20 products of each weight matrix with one [in, in]"),
    ),
    "alps": Entry(
        "baselines.alps:Alps",
        ("calibration",),
        "a support by ADMM under a growing penalty, then least squares on it",
        "2406.07831",
        2024,
        cost=Cost(
            passes=2,
            hessians=1,
            also="eigenvectors of each Hessian, in float64; up to 310 products of each weight matrix with one [in, in]",
        ),
    ),
    "cast": Entry(
        "cast.method:Cast",
        ("training", "teacher"),
        "train while AdamS pulls pruned weights to zero",
        "2509.25996",
        2025,
        presets={
            "no-scaling": {"scales": 0},
            "no-kd": {"eta": 0.0},
            "fixed-mask": {"fixed": True},
            "decoupled": {"decoupled": True},
        },
        cost=_DISTILLED,
    ),
    "dense-ft": Entry(
        "baselines.dense_ft:DenseFt",
        ("training", "teacher"),
        "the same training without sparsity: the fair control",
        "none",
        dense=True,
        cost=_TRAINED,
    ),
    "retrain": Entry(
        "baselines.retrain:Retrain",
        ("training", "teacher"),
        "train what a one-shot mask left, the mask held",
        "none",
        prior="sparsegpt",
        cost=_DISTILLED,
    ),
    "finetune": Entry(
        "baselines.finetune:Finetune",
        ("training", "teacher"),
        "train a sparse model further, its zeros held; rank= for low-rank updates",
        "none",
        cost=_TRAINED,
    ),
    "maskllm": Entry(
        "baselines.maskllm:MaskLLM",
        ("training", "teacher"),
        "learn each group's pattern, the weights frozen; file= for released masks",
        "2409.17481",
        2024,
        cost=Cost(training=6, state=28, tokens=2.1e9, also="the paper's 2,000 steps of 256 x 4096 tokens"),
        file="file",
    ),
    "proxsparse": Entry(
        "baselines.proxsparse:ProxSparse",
        ("training", "teacher"),
        "shrink weights until each group holds n:m; the dense ones stay under that mask",
        "2502.00258",
        2025,
        cost=Cost(training=6, state=16, tokens=1.6e6, also="the paper's 400 sequences of 4096 tokens"),
    ),
    "sr-ste": Entry(
        "baselines.sr_ste:SrSte",
        ("training", "teacher"),
        "straight-through masks, decay on what is masked",
        "2102.04010",
        2021,
        cost=_TRAINED,
    ),
    "ast": Entry(
        "baselines.sr_ste:Ast",
        ("training", "teacher"),
        "SR-STE annealed and distilled",
        "2407.20584",
        2024,
        cost=_DISTILLED,
    ),
}

QUANTIZERS = {
    "none": Entry("", about="weights as they are"),
    "int8": Entry("bench.quantizers.rounding:Int8", about="8-bit integers, a scale a row"),
    "w8a8": Entry("bench.quantizers.rounding:W8A8", about="int8, and the inputs int8 token by token"),
    "fp8": Entry("bench.quantizers.rounding:Fp8", about="e4m3, a scale a row"),
    "int4-rtn": Entry("bench.quantizers.rounding:Int4", about="4-bit integers, a scale for at most 128 inputs"),
    "int4-gptq": Entry(
        "bench.quantizers.gptq:Int4Gptq",
        ("calibration",),
        "int4, column by column, the rest makes up; the mask is held",
        "2210.17323",
        2022,
    ),
    "nf4": Entry(
        "bench.quantizers.rounding:Nf4", (), "normal quantiles, a scale for at most 64 inputs", "2305.14314", 2023
    ),
    "int3-rtn": Entry("bench.quantizers.rounding:Int3", about="3-bit integers, a scale for at most 128 inputs"),
    "hqq": Entry("bench.quantizers.libraries:Hqq", about="hqq's int4: shown because it breaks the pattern"),
    "llmcompressor-gptq": Entry(
        "bench.quantizers.libraries:LlmCompressorGptq",
        ("calibration",),
        "llm-compressor's int4: shown because it breaks the pattern",
        "2210.17323",
        2022,
    ),
    "torchao-int4": Entry(
        "bench.quantizers.libraries:TorchaoInt4", ("cuda",), "torchao's int4: shown because it breaks the pattern"
    ),
}

MEASURES = {
    "perplexity": Entry("bench.measures.perplexity:Perplexity", about="exp of the mean next-token cross-entropy"),
    "agreement": Entry(
        "bench.measures.agreement:Agreement", about="KL(dense || compressed) per token, and top-1 agreement"
    ),
    "size": Entry("bench.measures.size:Size", about="parameters, non-zeros, sparsity, bytes on disk and in theory"),
    "zeroshot": Entry("bench.measures.zeroshot:Zeroshot", about="accuracy on tasks of lm-eval, one cell a task"),
    "speed": Entry(
        "bench.measures.speed.measure:Speed", about="kernels on a CUDA device; without one its rows are skipped"
    ),
    "pattern": Entry("bench.measures.pattern:PatternHolds", about="groups that break the pattern; always measured"),
}

ONE_SHOT = ("magnitude", "wanda", "sparsegpt")

_BUILT_IN = {"methods": METHODS, "measures": MEASURES, "quantizers": QUANTIZERS}


@cache
def entries(kind: str) -> dict[str, Entry]:
    """Built-in and plugged-in entries of a kind: "methods", "measures" or "quantizers".

    A plug-in is imported to be listed. One that cannot be is listed as broken, and hurts nobody. A plug-in may not take
    a built-in name.
    """
    found = dict(_BUILT_IN[kind])
    for point in entry_points(group=f"cast_bench.{kind}"):
        found.setdefault(point.name, _plugged(point))
    return found


def _plugged(point: EntryPoint) -> Entry:
    try:
        loaded = point.load()
        needs = tuple(flag.name.lower() for flag in loaded.needs)
    except Exception as fault:  # noqa: BLE001 (a stranger's module may raise anything at import)
        return Entry(point.value, broken=f"{type(fault).__name__}: " + " ".join(str(fault).split()))
    about = (loaded.__doc__ or "").strip().split("\n")[0]
    return Entry(point.value, needs, about)


def lookup(kind: str, name: str) -> Entry:
    """
    Raises:
        UserError: unknown, with the nearest known names; or broken, with the reason.
    """
    known = entries(kind)
    if name not in known:
        raise UserError(describe_unknown(kind[:-1], name, known))
    if known[name].broken:
        raise UserError(
            f"{kind[:-1]} {name!r} is a plug-in that cannot be loaded ({known[name].broken}): mend or uninstall it"
        )
    return known[name]


def load(entry: Entry) -> Any:
    """The class behind an entry."""
    module, _, name = entry.target.partition(":")
    return getattr(importlib.import_module(module), name)
