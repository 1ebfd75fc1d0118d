"""The names that are built in. The class behind a name says the rest: `bench.catalog.declarations`
reads it.

A part adds its names in the ENTRIES of bench/parts/NAME/__init__.py. A section that is empty here
is in parts alone.
"""

from __future__ import annotations

from collections.abc import Mapping

from bench.catalog.declarations import Catalog, CatalogEntry
from bench.catalog.parts import entries_of_parts

DECIDES_NO_NUMBER = True


def _section(
    name: str, core: Mapping[str, str | CatalogEntry], *, of_classes: bool = True
) -> Catalog:
    return Catalog({**core, **entries_of_parts(name)}, of_classes)


COMMANDS = _section(
    "commands",
    {
        "run": "bench.cli.run:run",
        "plan": "bench.cli.run:plan",
        "top": "bench.cli.watch:top",
        "search": "bench.cli.search:search",
        "ls": "bench.cli.result_commands:ls",
        "show": "bench.cli.result_commands:show",
        "figure": "bench.cli.figure:figure",
        "report": "bench.cli.report:report",
        "pick": "bench.cli.pick:pick",
        "pull": "bench.cli.model_commands:pull",
        "prune": "bench.cli.prune:prune",
        "finetune": "bench.cli.prune:finetune",
        "verify": "bench.cli.model_commands:verify",
        "doctor": "bench.cli.setup:doctor",
        "compare": "bench.cli.compare:compare",
        "gate": "bench.cli.gate:gate",
        "check": "bench.cli.check:check",
        "sign": "bench.cli.check:sign",
        "merge": "bench.cli.check:merge",
        "cache": "bench.cli.setup:cache_app",
        "env": "bench.cli.setup:env_app",
        "baseline": "bench.cli.gate:baseline_app",
    },
    of_classes=False,
)
"""Functions, or groups of typer, in the order of the help."""

METHODS = _section(
    "methods",
    {
        "dense": "baselines.dense:Dense",
        "magnitude": "baselines.magnitude:Magnitude",
        "wanda": "baselines.wanda:Wanda",
        "sparsegpt": "baselines.sparsegpt:SparseGPT",
        "llmcompressor-sparsegpt": "baselines.llmcompressor:LlmCompressorSparseGPT",
        "llmcompressor-wanda": "baselines.llmcompressor:LlmCompressorWanda",
        "sparseml-sparsegpt": "baselines.sparseml:SparsemlSparseGPT",
        "sparseml-magnitude": "baselines.sparseml:SparsemlMagnitude",
        "ria": "baselines.ria:Ria",
        "dsnot": "baselines.dsnot:DSnoT",
        "admm": "baselines.admm:Admm",
        "alps": "baselines.alps:Alps",
        "recon": "baselines.recon:Recon",
        "cast": "cast.cast:Cast",
        "depth": "baselines.depth:Depth",
        "width": "baselines.width:Width",
        "channels": "baselines.channels:Channels",
        "experts": "baselines.experts:Experts",
        "lowrank": "baselines.lowrank:LowRank",
        "rotate": "baselines.rotate:Rotate",
        "permute": "baselines.permute:Permute",
        "smooth": "baselines.smooth:Smooth",
        "awq": "baselines.smooth:Awq",
        "llmcompressor-awq": "baselines.llmcompressor:LlmCompressorAwq",
        "llmcompressor-smoothquant": "baselines.llmcompressor:LlmCompressorSmoothQuant",
        "dense-ft": "baselines.dense_ft:DenseFt",
        "retrain": "baselines.retrain:Retrain",
        "router": "baselines.router:RouterTraining",
        "finetune": "baselines.finetune:Finetune",
        "elsa": "baselines.elsa:Elsa",
        "maskllm": "baselines.maskllm:MaskLLM",
        "proxsparse": "baselines.proxsparse:ProxSparse",
        "sr-ste": "baselines.sr_ste:SrSte",
        "ast": "baselines.sr_ste:Ast",
    },
)

QUANTIZERS = _section(
    "quantizers",
    {
        "none": CatalogEntry(target="", about="no quantization"),
        "int8": "bench.quantizers.rounding:Int8",
        "w8a8": "bench.quantizers.rounding:W8A8",
        "w8a8-smooth": "bench.quantizers.rounding:W8A8Smooth",
        "fp8": "bench.quantizers.rounding:Fp8",
        "int4-gptq": "bench.quantizers.gptq:Int4Gptq",
        "int4-awq": "bench.quantizers.rounding:Int4Awq",
        "int4-rtn": "bench.quantizers.rounding:Int4",
        "nf4": "bench.quantizers.rounding:Nf4",
        "int3-gptq": "bench.quantizers.gptq:Int3Gptq",
        "int3-rtn": "bench.quantizers.rounding:Int3",
        "mxfp8": "bench.quantizers.rounding:MxFp8",
        "mxfp4": "bench.quantizers.rounding:MxFp4",
        "mxfp4-gptq": "bench.quantizers.gptq:MxFp4Gptq",
        "mxfp4-w4a4": "bench.quantizers.rounding:MxFp4W4A4",
        "nvfp4": "bench.quantizers.rounding:NvFp4",
        "nvfp4-gptq": "bench.quantizers.gptq:NvFp4Gptq",
        "nvfp4-w4a4": "bench.quantizers.rounding:NvFp4W4A4",
        "kv8": "bench.quantizers.kv_rounding:Kv8",
        "kv4": "bench.quantizers.kv_rounding:Kv4",
        "hqq": "bench.quantizers.libraries:Hqq",
        "torchao-int4": "bench.quantizers.libraries:TorchaoInt4",
    },
)

MEASURES = _section(
    "measures",
    {
        "size": "bench.measures.size:Size",
        "perplexity": "bench.measures.perplexity:Perplexity",
        "answers": "bench.measures.answers:Answers",
        "zeroshot": "bench.measures.zeroshot:Zeroshot",
        "agreement": "bench.measures.agreement:Agreement",
        "continuation": "bench.measures.continuation:Continuation",
        "pattern": "bench.measures.pattern_check:PatternHolds",
    },
)
"""Measures in the order of their columns in a leaderboard."""

CODECS = _section(
    "codecs",
    {
        "float": "methods.contract.codec:FloatCodec",
        "grid": "methods.workshop.quantizing.grid_codec:GridCodec",
        "affine": "bench.quantizers.libraries:AffineCodec",
    },
)

EMBEDDINGS = _section(
    "embeddings",
    {
        "int8": "bench.quantizers.embeddings:int8",
        "int4": "bench.quantizers.embeddings:int4",
    },
    of_classes=False,
)
"""Formats of the embedding and of the head of a quantized model."""

EXPORTS = _section("exports", {})

TRACKERS = _section("trackers", {})
"""Experiment trackers. A name is also that of the package that it needs, and of the extra that
installs it."""

EXECUTORS = _section("executors", {"local": "bench.execution.processes:LocalExecutor"})
"""Where the artifacts of a run are made."""

SERVICES = _section("services", {}, of_classes=False)
"""Objects of parts that the core asks for by name, and works without: forecasts, trackers (the
listener that starts them), shard (a part of a plan), slurm, ranks (the processes that share a
stage), nodes, foreign_results, the leaderboard that `bench report` writes, model_card (the card
that `bench export` writes), fidelity_in_reports, the digest and the inspection of a model from
another tool, gguf_folder (which writes a model folder from a GGUF file), and wheels (which pulls a
model from the package index)."""

READERS = _section(
    "readers",
    {
        "adapter": "bench.formats.opening:Adapter",
        "stored": "bench.formats.opening:Stored",
    },
)
"""Formats of models from other tools, in the order in which they are asked. The rest is
safetensors."""

CORPORA = _section("corpora", {}, of_classes=False)
"""Texts besides those of bench.inputs.corpora."""

ALIASES = _section("aliases", {}, of_classes=False)
"""Names for models besides those of bench.inputs.models."""

COLUMNS = _section(
    "columns",
    {
        "perplexity_ratio": "bench.reporting.derived_columns:PERPLEXITY_RATIO",
        "perplexity_ratio_to_dense-ft": "bench.reporting.derived_columns:CONTROL_RATIO",
        "worst_track": "bench.reporting.derived_columns:WORST_TRACK",
        "flips": "bench.reporting.derived_columns:FLIPS",
        "tokens_to_make": "bench.reporting.derived_columns:TOKENS_TO_MAKE",
        "time_to_make": "bench.reporting.derived_columns:TIME_TO_MAKE",
        "made_on": "bench.reporting.derived_columns:MADE_ON",
    },
    of_classes=False,
)
"""Columns that are computed from other numbers of a row, in the order in which a table has them."""

HARNESSES = _section("harnesses", {})
"""Harnesses whose answers can be compared and imported, in the order in which they are read."""

ENGINES = _section("engines", {})
"""Engines of `bench speed --engine`."""

CONTROL = "dense"
"""Method that changes nothing. Every other row is compared with its row."""
DEFAULT_PRUNER = "sparsegpt"
"""Method that prunes the linears of an allocation if the user names none."""
DEFAULT_METHODS = ("magnitude", "wanda", "sparsegpt", "cast")
"""Methods that `bench run` compares if the user names none."""
LOCAL = "local"
"""Executor of this machine. The devices, memory and cores of all others are unknown here."""
