"""Two models and a text, checked before weights are read, and the distance between them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.formats.checkpoint import Checkpoint
from bench.formats.opening import guarded, open_checkpoint
from bench.inputs import corpora, models, own_text
from bench.inputs.bos import Bos, resolve_bos
from bench.inputs.model_config import ModelConfig
from bench.inputs.tokenizer_facts import read_tokenizer_facts, read_vocabulary
from bench.inputs.windows import load_windows
from bench.measures.windowed import Windows
from bench.parts.fidelity import tally
from bench.results.derive import Items
from bench.system import surroundings
from bench.system.text import amount
from methods.contract.errors import UserError
from methods.contract.method import Compute, Progress
from methods.model.safe_files import find_file
from methods.model.targets import family_of
from methods.workshop.quantizing.inputs import ACTIVATIONS_KEY

if TYPE_CHECKING:
    from torch import Tensor

TOKENS = 32_768
"""Tokens in all windows together, if the user does not say how many."""
SEQLEN = 512
"""Tokens in a window, if the user does not say and the model's context is not shorter."""

ENGINES = ("transformers", "llamacpp")
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class Request:
    """Arguments of `bench fidelity`."""

    original: str
    compressed: str
    data: str = "wiki-mini"
    seqlen: int | None = None
    windows: int | None = None
    device: str = "cpu"
    dtype: str | None = None
    """Number format of the arithmetic. None: as the original is stored."""
    threads: int = 1
    engine: str = ENGINES[0]
    """Program that runs the compressed model. The original runs in transformers."""
    data_dir: Path | None = None


@dataclass(frozen=True)
class Pair:
    """Two models that read the same tokens, and a text."""

    request: Request
    original: Checkpoint
    compressed: Checkpoint
    seqlen: int
    dtype: str
    windows: Windows = field(repr=False)
    tokenizer: Any = field(repr=False)

    def plain(self, checkpoint: Checkpoint, workdir: Path) -> Path:
        """Return a folder that transformers loads: the model's own, or one written to `workdir`."""
        if type(checkpoint).tensor is Checkpoint.tensor:
            return checkpoint.folder.path
        from methods.model.folder import Writer

        with guarded(checkpoint.path):
            writer = Writer(workdir)
            family = family_of(checkpoint.config)
            writer.add_folded(dict.fromkeys(checkpoint), checkpoint.tensor, family)
            folder = writer.close()
            config = dict(checkpoint.config)
            if checkpoint.activations:
                config[ACTIVATIONS_KEY] = {
                    "format": checkpoint.activations,
                    "targets": list(checkpoint.rounded),
                }
        (folder / "config.json").write_text(json.dumps(config))
        return folder


def prepare(request: Request) -> Pair:
    """Open both models, check that they can be compared, and cut the text. No weights are loaded.

    Raises:
        UserError: a model or the text cannot be used, or the models read other tokens.
    """
    if request.dtype and request.dtype not in DTYPES:
        raise UserError(f"unknown dtype {request.dtype!r}: use one of {', '.join(DTYPES)}")
    if request.engine not in ENGINES:
        raise UserError(f"unknown engine {request.engine!r}: use one of {', '.join(ENGINES)}")
    corpora.require(request.data)
    corpora.require_split(request.data, "evaluation")
    if request.engine == "llamacpp":
        _require_llamacpp(request)
    original = _open(request.original, request.data_dir)
    compressed = _open(request.compressed, request.data_dir, original)
    folder = original.folder.path
    if find_file(folder, "tokenizer.json") is None:
        raise UserError(
            f"{request.original} has no tokenizer.json: copy that of the model to its folder"
        )
    _require_same_tokens(request, original, compressed)
    facts = read_tokenizer_facts(folder)
    own_text.check(request.data, request.original, lacks_template=facts.lacks_template)
    context = ModelConfig(original.config, str(folder)).context(default=SEQLEN)
    seqlen = request.seqlen or min(SEQLEN, context)
    if seqlen > context:
        raise UserError(
            f"--seqlen {seqlen} is more than the {context} positions of {request.original}: use at "
            "most that many"
        )
    corpora.digest(request.data, "evaluation", request.data_dir, fetch=True)
    from bench.inputs.loading import load_tokenizer  # imports torch

    tokenizer = load_tokenizer(folder)
    bos = resolve_bos("auto", adds=facts.begins_with_bos)
    windows = _cut(request, tokenizer, seqlen, request.windows, bos)
    wanted = max(1, TOKENS // seqlen)
    if request.windows is None and len(windows.tokens) > wanted:
        windows = _cut(request, tokenizer, seqlen, wanted, bos)
    dtype = request.dtype or original.folder.dtype
    return Pair(request, original, compressed, seqlen, dtype, windows, tokenizer)


def _require_llamacpp(request: Request) -> None:
    """Refuse a model that llama.cpp does not read, and a machine without llama.cpp."""
    if not request.compressed.endswith(".gguf"):
        raise UserError(
            f"--engine llamacpp runs a .gguf file, and {request.compressed} is none: write one "
            "with bench export --format gguf"
        )
    from bench.inputs.llamacpp import require_package  # imports torch

    require_package("--engine llamacpp")


def _cut(request: Request, tokenizer: Any, seqlen: int, count: int | None, bos: Bos) -> Windows:
    text = (request.data, tokenizer, seqlen, count, request.data_dir)
    try:
        return Windows(*load_windows(*text, bos=bos, spread=True))
    except UserError as fault:
        # The sentence names settings of a run, whose names are those of the flags here.
        raise UserError(str(fault).replace("perplexity.", "--")) from None


def _open(name: str, data_dir: Path | None, original: Checkpoint | None = None) -> Checkpoint:
    if Path(name).exists():
        return open_checkpoint(Path(name), original.folder if original else None)
    facts = models.resolve(name, data_dir)
    if facts is None:
        raise UserError(f"model {name!r} is not downloaded yet: run bench pull {name}")
    return open_checkpoint(facts.folder)


def _require_same_tokens(request: Request, original: Checkpoint, compressed: Checkpoint) -> None:
    """Refuse a model with another vocabulary than its original."""
    ours, theirs = (one.config.get("vocab_size") for one in (original, compressed))
    if ours != theirs:
        raise UserError(
            f"{request.compressed} predicts {theirs} tokens and {request.original} {ours}: KL "
            "needs two models with one vocabulary"
        )
    place = compressed.path if compressed.path.is_dir() else compressed.folder.path
    own = find_file(place, "tokenizer.json")
    if own is None:
        return
    theirs_by_token = read_vocabulary(own)
    for token, number in read_vocabulary(original.folder.path / "tokenizer.json").items():
        if theirs_by_token.get(token, number) != number:
            raise UserError(
                f"{request.compressed} has another tokenizer than {request.original}: the token "
                f"{token!r} is {theirs_by_token[token]} there and {number} here. Compare models "
                "with one tokenizer"
            )


@dataclass(frozen=True)
class Comparison:
    """Distances of a compressed model, and of the original to itself."""

    items: Items
    """Items of the measure `fidelity`."""
    tails: Mapping[str, Mapping[str, float | None]]
    """Percentiles and largest KL by bucket, as `tally.tails_of` gives them."""
    floor: Mapping[str, Items]
    """Items for the original under other conditions, by their name. Empty: not measured."""


def compare(
    pair: Pair, workdir: Path, progress: Progress, *, with_floor: bool = False
) -> Comparison:
    """Run both models over the windows, and `with_floor` also the original under other conditions.

    workdir: empty folder for weights that are not stored plainly. progress: counts the windows of
    all passes.
    """
    import torch  # slow to import

    from bench.inputs import loading
    from bench.parts.fidelity.passes import Condition, Passes, conditions

    request = pair.request
    compute = Compute(
        device=torch.device(request.device),
        dtype=getattr(torch, pair.dtype),
        threads=request.threads,
    )
    plain, others = Condition("", compute), conditions(compute) if with_floor else []
    original = partial(loading.load, pair.plain(pair.original, workdir / "original"))
    passes = Passes(pair.windows, pair.tokenizer, compute, progress, 2 + len(others))
    with surroundings.kept():
        passes.run_original(original)
        if request.engine == "llamacpp":
            found = passes.distance_in_engine(_run_llamacpp(pair))
        else:
            folder = pair.plain(pair.compressed, workdir / "compressed")
            found = passes.distance(partial(loading.load, folder), plain)
        floor = {
            other.name: tally.read_items(passes.distance(original, other).items) for other in others
        }
    return Comparison(tally.read_items(found.items), found.notes[tally.TAILS], floor)


def _run_llamacpp(pair: Pair) -> Callable[[Tensor], Tensor]:
    """Load the compressed file in llama.cpp. Return a function from tokens [seqlen] to logits
    [seqlen, vocabulary]."""
    import torch  # slow to import

    from bench.inputs import llamacpp

    file, threads = Path(pair.request.compressed), pair.request.threads
    llama = llamacpp.load(file, pair.seqlen, threads, logits_all=True)

    def logits_of(ids: Tensor) -> Tensor:
        llama.reset()
        llama.eval(ids.tolist())
        return torch.from_numpy(np.array(llama.scores[: len(ids)]))

    return logits_of


def describe_text(pair: Pair, items: Items) -> str:
    """Return the text in words: its name, windows, tokens and articles."""
    index, unit = tally.by_article(items)
    windows, seqlen = pair.windows.tokens.shape
    articles = f", {int(index.max()) + 1} {unit}" if unit == "articles" else ", 1 article"
    return f"{pair.request.data}, {amount(windows, 'window')} of {seqlen} tokens{articles}"
