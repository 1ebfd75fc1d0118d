"""Common prefix of the greedy continuations of a compressed model and of the dense model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bench.inputs import corpora
from bench.inputs.bos import Bos, count_first
from bench.inputs.windows import check_windows, load_windows, token_digest
from bench.measures.contract import MeasureContext, MeasureSettings, PlanContext, Planned, Readings
from bench.measures.state_check import StateCheck
from bench.measures.windowed import WindowSettings, mean_and_stderr
from bench.results.identity import Protocol
from bench.results.record import Item, Reading
from bench.system.text import amount
from bench.system.validation import Count
from methods.contract.errors import Skipped, UserError
from methods.contract.measure_info import MeasureInfo, Metric
from methods.contract.method import Needs

if TYPE_CHECKING:
    from torch import Tensor, nn

PROMPT = 64
"""Tokens of a prompt."""
NEW = 64
"""Tokens that are generated."""
BATCH = 20
"""Prompts in a forward pass."""


class ContinuationSettings(MeasureSettings):
    """Greedy continuations beside the dense model's. The text is that of perplexity."""

    table: ClassVar[str] = "continuation"
    prompts: Count = 200
    """Number of prompts of 64 tokens, evenly spaced in the text."""


@dataclass(frozen=True)
class Continuation:
    """Number of tokens, of 64, before the greedy continuation of a prompt first differs from the
    dense model's.

    The mean over prompts; 64 means that all agree. Only the dense model generates: a model agrees
    with it up to token k exactly if its most likely next token is the dense model's at each of the
    first k, so one forward pass over its continuation is enough. An end of text does not end a
    continuation. The dense model's own row is below 64 where a token's cached keys and values round
    otherwise than a whole pass does, as in bfloat16. Items: the length for each prompt.
    """

    name: ClassVar[str] = "continuation"
    info: ClassVar[MeasureInfo] = MeasureInfo(
        metrics=(
            Metric(
                "common_prefix",
                "tokens",
                "higher",
                "tokens",
                0.0,
                64.0,
                aggregation="window mean",
                order=30,
                on_board=True,
            ),
        )
    )
    needs: ClassVar[Needs] = Needs.NOTHING
    settings: ClassVar[type[ContinuationSettings]] = ContinuationSettings
    corpus: str
    windows: int
    seqlen: int = PROMPT
    bos: Bos = ""

    @classmethod
    def plan(cls, context: PlanContext) -> Iterator[Planned]:
        """Plan one measurement. Raise UserError if the text has too few prompts, or the model too
        few positions."""
        prompts, data_dir = (
            context.run.settings_of(ContinuationSettings).prompts,
            context.run.data_dir,
        )
        corpus = context.run.settings_of(WindowSettings).data or context.facts.data
        context.require_positions("continuation", PROMPT + NEW)
        context.require_text(corpus)
        content = corpora.digest(corpus, "evaluation", data_dir, fetch=context.fetch)
        if content:
            check_windows(
                corpus,
                PROMPT,
                prompts,
                context.facts.tokenizer,
                data_dir,
                first=count_first(context.bos),
                setting="continuation.prompts",
            )
        bos = {"bos": context.bos} if context.bos else {}
        yield Planned({"corpus": corpus, "windows": prompts, "seqlen": PROMPT} | bos, content)

    @property
    def protocol(self) -> Protocol:
        return Protocol(name=self.corpus, seqlen=self.seqlen, limit=self.windows, bos=self.bos)

    @property
    def estimated_tokens(self) -> int:
        return self.windows * (PROMPT + NEW) * 2

    def read(self, model: Callable[[], nn.Module], context: MeasureContext) -> Readings:
        import torch  # slow to import

        every, articles = load_windows(
            self.corpus, context.tokenizer(), self.seqlen, None, context.data_dir, bos=self.bos
        )
        if len(every) < self.windows:
            raise UserError(
                f"{self.corpus} has {amount(len(every), 'window')} of {self.seqlen} tokens, and "
                f"continuation takes {self.windows}: use a longer text"
            )
        chosen = [i * len(every) // self.windows for i in range(self.windows)]
        prompts = every[chosen]
        with torch.no_grad():
            original = context.load_dense()
            check = StateCheck(original)
            dense = _continue(original, prompts, context)
            check.require_numbers("the dense model")
            del original  # one model is in memory at a time
            loaded = model()
            check = StateCheck(loaded)
            lengths = _agree(loaded, prompts, dense, context)
            check.require_numbers("the model")
        mean, stderr = mean_and_stderr(lengths)
        items = tuple(
            Item(str(i), articles[at], float(n), 1.0)
            for i, (at, n) in enumerate(zip(chosen, lengths, strict=True))
        )
        reading = Reading("common_prefix", mean, stderr=stderr, n=len(items))
        tokens = 2 * prompts.numel() + 2 * dense.numel()
        return Readings((reading,), items, tokens=tokens, token_digest=token_digest(prompts))


def _continue(model: Any, prompts: Tensor, context: MeasureContext) -> Tensor:
    """Generate NEW tokens after each prompt, the most likely one each time. Return int64 [prompts,
    NEW]."""
    import torch  # slow to import

    # A fresh one in place of the model's own, which may have penalties, and from which `generate`
    # fills each None.
    config = type(model.generation_config)(
        max_new_tokens=NEW, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    model.generation_config = config
    done = []
    for part in prompts.split(BATCH):
        ids = part.to(context.compute.device)
        whole = model.generate(ids, attention_mask=torch.ones_like(ids))
        done.append(whole[:, ids.shape[1] :].cpu())
        context.progress.advance(sum(map(len, done)), len(prompts))
    return torch.cat(done)


def _agree(model: nn.Module, prompts: Tensor, dense: Tensor, context: MeasureContext) -> list[int]:
    """Return for each prompt the number of tokens before the model's most likely token is another
    than the dense model's."""
    import torch  # slow to import

    same = []
    for part, after in zip(prompts.split(BATCH), dense.split(BATCH), strict=True):
        ids = torch.cat([part, after[:, :-1]], 1).to(context.compute.device)
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=NEW).logits
        if logits.shape[-1] <= int(after.max()):
            raise Skipped(
                f"the model has {logits.shape[-1]:,} logits, fewer than the original's tokens"
            )
        same.append(logits.argmax(-1).cpu() == after)
    agree: list[int] = torch.cat(same).int().cumprod(1).sum(1).tolist()
    return agree
