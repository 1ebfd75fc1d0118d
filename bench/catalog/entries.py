"""The names that are built in: methods, quantizers and measures as strings, so that listing them imports none of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.catalog.plugins import PlugIn


@dataclass(frozen=True)
class Cost:
    """What a method needs besides the model. `bench.planning.method_cost` computes it for a LLaMA2-7B, as an estimate.

    A method that trains uses the tokens of the recipe for that size, unless `tokens` is set.
    """

    passes: float = 0
    """Number of forward passes over the calibration tokens."""
    hessians: float = 0
    """Number of float32 matrices [in, in] per distinct input of a block."""
    training: float = 0
    """FLOP per weight and training token: 2 for a forward pass, 4 for a backward pass."""
    tokens: float | None = None
    """Training tokens."""
    state: float = 0
    """Bytes per weight: gradients, moments, masks, teacher."""
    also: str = ""
    """Other costs, in words; a measured number only with its source."""


@dataclass(frozen=True)
class Entry:
    """One name of the catalog. `needs` and `shares_calibration` repeat those of the class, so that they are known without
    importing it."""

    target: str
    needs: tuple[str, ...] = ()
    about: str = ""
    paper: str = ""
    """arXiv number, or "none"."""
    year: int | None = None
    presets: dict[str, dict[str, Any]] = field(default_factory=dict)
    dense: bool = False
    """A control: its model is dense, whatever the pattern."""
    prior: str = ""
    """The stage that it refines without `from=`."""
    cost: Cost | None = None
    """None: unknown."""
    extra: str = ""
    """The extra of cast-bench that installs its library."""
    environment: str = ""
    """The environment it runs in, for `bench env create`."""
    refines: bool = False
    """It always refines another stage: without a `prior`, `from=` is required."""
    whole_blocks: bool = False
    """It works on a whole block at a time: of a mixture that is streamed, all experts of a block are in memory."""
    groups_only: bool = False
    """It takes no unstructured pattern."""
    block: int = 0
    """The default of its field `block`, a number of columns that must be a whole number of groups; 0 without one."""
    file: str = ""
    """A field that names a file. If it is set nothing else is needed, and the field `sha256` identifies the content."""
    shares_calibration: bool = False
    """Several processes can share its calibration, as its class says."""
    broken: str = ""
    """Why it cannot be imported; "" if it can."""
    plugin: PlugIn | None = None
    """Of another distribution: what it says of itself."""

    @property
    def module(self) -> str:
        """The module of the class."""
        return self.target.split(":")[0]

    @property
    def trains(self) -> bool:
        """Whether it needs training data."""
        return "training" in self.needs

    def needs_with(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        """What it needs with these settings."""
        return () if self.file and config.get(self.file) else self.needs


_TRAINING_COST = Cost(training=6, state=16)
"""A forward and a backward pass; weight, gradient and two moments in float32."""

_DISTILLATION_COST = Cost(training=8, state=18)
"""And a forward pass of the teacher, in bfloat16."""

_HESSIANS_PER_LINEAR = 1.3
"""For a library with one Hessian per linear instead of one per input: (6 4096^2 + 11008^2) / (3 4096^2 + 11008^2)."""

METHODS = {
    "dense": Entry("baselines.dense:Dense", about="no pruning: the control", paper="none", dense=True, cost=Cost()),
    "magnitude": Entry(
        "baselines.magnitude:Magnitude",
        about="keep the weights with the largest |W|",
        paper="1506.02626",
        year=2015,
        cost=Cost(also="one pass over the weights"),
    ),
    "wanda": Entry(
        "baselines.wanda:Wanda",
        ("calibration",),
        "keep the weights with the largest |W| * ||X||",
        "2306.11695",
        2023,
        cost=Cost(passes=2),
        shares_calibration=True,
    ),
    "sparsegpt": Entry(
        "baselines.sparsegpt:SparseGPT",
        ("calibration",),
        "prune column by column; kept weights compensate the error",
        "2301.00774",
        2023,
        presets={"mask-only": {"mask_only": True}},
        cost=Cost(passes=2, hessians=1),
        block=128,
        shares_calibration=True,
    ),
    "llmcompressor-sparsegpt": Entry(
        "baselines.llmcompressor:LlmCompressorSparseGPT",
        ("calibration",),
        "llm-compressor's SparseGPT",
        "2301.00774",
        2023,
        cost=Cost(passes=2, hessians=_HESSIANS_PER_LINEAR),
        extra="llmcompressor",
        block=128,
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
        cost=Cost(passes=32, hessians=_HESSIANS_PER_LINEAR, also="runs the whole model again for each block"),
        environment="sparseml",
        block=128,
    ),
    "sparseml-magnitude": Entry(
        "baselines.sparseml:SparsemlMagnitude",
        ("isolated",),
        "SparseML's magnitude",
        "1506.02626",
        2015,
        cost=Cost(also="one pass over the weights"),
        environment="sparseml",
    ),
    "ria": Entry(
        "baselines.ria:Ria",
        ("calibration",),
        "keep weights that are large for their row and column, times ||X||^0.5",
        "ICLR 2024",
        2024,
        cost=Cost(passes=2),
        shares_calibration=True,
    ),
    "dsnot": Entry(
        "baselines.dsnot:DSnoT",
        ("calibration", "teacher"),
        "swap kept and pruned weights of a mask to shrink the expected error",
        "2310.08915",
        2023,
        refines=True,
        cost=Cost(passes=3, also="a second, dense model in memory"),
        shares_calibration=True,
    ),
    "admm": Entry(
        "baselines.admm:Admm",
        ("calibration",),
        "least squares under the pattern by ADMM, with a gradual mask",
        "2401.02938",
        2024,
        presets={"fixed-mask": {"gradual": 0}},
        cost=Cost(passes=2, hessians=1, also="20 products of each weight matrix with one [in, in]"),
        shares_calibration=True,
    ),
    "alps": Entry(
        "baselines.alps:Alps",
        ("calibration",),
        "find the mask by ADMM with a growing penalty, then least squares under it",
        "2406.07831",
        2024,
        cost=Cost(
            passes=2,
            hessians=1,
            also="eigenvectors of each Hessian, in float64; up to 310 products of each weight matrix with one [in, in]",
        ),
        shares_calibration=True,
    ),
    "recon": Entry(
        "baselines.recon:Recon",
        ("calibration", "teacher"),
        "train each pruned block, mask held, to give what the dense block gives",
        "2510.14444",
        2025,
        prior="sparsegpt",
        cost=Cost(
            passes=15,
            state=16,
            also="a second, dense model in memory; the state is of one block",
        ),
        whole_blocks=True,
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
            "wanda-mask": {"mask": "wanda"},
        },
        cost=_DISTILLATION_COST,
        groups_only=True,
    ),
    "dense-ft": Entry(
        "baselines.dense_ft:DenseFt",
        ("training", "teacher"),
        "the same training without sparsity: the control for training",
        "none",
        dense=True,
        cost=_TRAINING_COST,
    ),
    "retrain": Entry(
        "baselines.retrain:Retrain",
        ("training", "teacher"),
        "train the weights kept by a one-shot method, under its mask",
        "none",
        prior="sparsegpt",
        cost=_DISTILLATION_COST,
    ),
    "finetune": Entry(
        "baselines.finetune:Finetune",
        ("training", "teacher"),
        "train a sparse model further under its mask; rank= for low-rank updates",
        "none",
        cost=_TRAINING_COST,
    ),
    "elsa": Entry(
        "baselines.elsa:Elsa",
        ("training", "teacher"),
        "ADMM on the training loss: train while the weights are drawn to their own projection on the pattern",
        "2510.01650",
        2025,
        cost=Cost(training=6, state=24),
    ),
    "maskllm": Entry(
        "baselines.maskllm:MaskLLM",
        ("training", "teacher"),
        "learn the mask of each group, with frozen weights; file= for released masks",
        "2409.17481",
        2024,
        cost=Cost(training=6, state=28, tokens=2.1e9, also="the paper's 2,000 steps of 256 x 4096 tokens"),
        file="file",
        groups_only=True,
    ),
    "proxsparse": Entry(
        "baselines.proxsparse:ProxSparse",
        ("training", "teacher"),
        "learn a mask by shrinking weights until n:m holds; the dense weights are kept under it",
        "2502.00258",
        2025,
        cost=Cost(training=6, state=16, tokens=1.6e6, also="the paper's 400 sequences of 4096 tokens"),
        groups_only=True,
    ),
    "sr-ste": Entry(
        "baselines.sr_ste:SrSte",
        ("training", "teacher"),
        "straight-through masks, with decay on pruned weights",
        "2102.04010",
        2021,
        cost=_TRAINING_COST,
        groups_only=True,
    ),
    "ast": Entry(
        "baselines.sr_ste:Ast",
        ("training", "teacher"),
        "SR-STE with annealed decay and distillation",
        "2407.20584",
        2024,
        cost=_DISTILLATION_COST,
        groups_only=True,
    ),
}

QUANTIZERS = {
    "none": Entry("", about="no quantization"),
    "int8": Entry("bench.quantizers.rounding:Int8", about="8-bit integers, one scale per row"),
    "w8a8": Entry("bench.quantizers.rounding:W8A8", about="int8 weights, and int8 inputs per token"),
    "fp8": Entry("bench.quantizers.rounding:Fp8", about="8-bit floats (e4m3), one scale per row"),
    "int4-rtn": Entry("bench.quantizers.rounding:Int4", about="4-bit integers, one scale for up to 128 inputs"),
    "int4-gptq": Entry(
        "bench.quantizers.gptq:Int4Gptq",
        ("calibration",),
        "int4, GPTQ with act-order under a fixed mask; also compensates the pruning error",
        "2210.17323",
        2022,
        shares_calibration=True,
    ),
    "nf4": Entry(
        "bench.quantizers.rounding:Nf4", (), "4-bit normal quantiles, one scale for up to 64 inputs", "2305.14314", 2023
    ),
    "int3-rtn": Entry("bench.quantizers.rounding:Int3", about="3-bit integers, one scale for up to 128 inputs"),
    "hqq": Entry("bench.quantizers.libraries:Hqq", about="int4 of hqq; breaks the pattern, shown for comparison"),
    "llmcompressor-gptq": Entry(
        "bench.quantizers.libraries:LlmCompressorGptq",
        ("calibration",),
        "int4 of llm-compressor; breaks the pattern, shown for comparison",
        "2210.17323",
        2022,
    ),
    "torchao-int4": Entry(
        "bench.quantizers.libraries:TorchaoInt4", ("cuda",), "int4 of torchao; breaks the pattern, shown for comparison"
    ),
}

MEASURES = {
    "perplexity": Entry("bench.measures.perplexity:Perplexity", about="exp of the mean next-token cross-entropy"),
    "agreement": Entry(
        "bench.measures.agreement:Agreement", about="KL(dense || compressed) per token, and top-1 agreement"
    ),
    "size": Entry("bench.measures.size:Size", about="parameters, non-zeros, sparsity, bytes on disk and in theory"),
    "zeroshot": Entry(
        "bench.measures.zeroshot:Zeroshot", about="accuracy on tasks of lm-eval, one measurement per task"
    ),
    "speed": Entry(
        "bench.measures.speed.measure:Speed",
        about="tokens per second of decoding; on a CUDA device also prompts, and linears one by one",
    ),
    "pattern": Entry(
        "bench.measures.pattern:PatternHolds", about="number of groups that break the pattern; always measured"
    ),
}

DEFAULT_METHODS = ("magnitude", "wanda", "sparsegpt", "cast")
"""What `bench run` compares where nobody names a method."""
