"""Error rates, power and run time of a gate.

python benchmarks/gate.py [--gates 1000]

Gates of 20 metrics. Perplexities are per-window losses from results/tiny-methods: a metric's change
is the difference of two rows there, article by article, without its mean, and each gate draws other
articles for all of them at once. Accuracies are simulated by question: questions flip both ways,
easy ones rarely. Latencies are log-normal.

Type I error: share of gates with a REGRESSION although no metric has changed, or although each lost
exactly its margin. Power: one accuracy loses 3 points, or one perplexity 2%. Before: the p value
was for a change of 0, now it is for a change of the margin.

One seed: each perplexity was made with one seed, and the code draws other data, so that each side
moves by 0.5%. The noise between seeds is measured on five rows with three seeds. OK is a statement
on the seed that was run: its error rate is the share of perplexities that are OK although this seed
lost exactly its margin.

The simulation is not timed. Seconds depend on the machine: --speed-only measures them again on a
quiet machine and keeps the rest, --errors-only keeps the seconds.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from harness import RESULTS, ROOT, Figures, finish, recorded, seconds, start
from intervals import SEEDED_ROWS, measured_noise, real_changes, real_losses, share
from scipy.special import stdtr

from bench.comparing import baseline, gate_settings, verdict
from bench.comparing.result_arguments import read
from bench.results import metrics
from bench.results.store import Store
from bench.stats import bootstrap, mcnemar, multiple_tests
from bench.stats.bootstrap import Estimate, students_p
from bench.stats.seed_noise import SeedNoise, add_seed_noise

METRICS = {"perplexity": 10, "accuracy": 8, "latency": 2}
QUESTIONS, DISCORDANT = 2000, 0.08
"""Accuracy, and the share of its questions that flip either way when nothing is worse."""
BLOCKS, JITTER = 12, 0.02
LOSS, PERPLEXITY_LOSS = 0.03, 0.02
ALPHA, SCREEN = 0.05, 2.0
ACCURACIES = slice(METRICS["perplexity"], METRICS["perplexity"] + METRICS["accuracy"])
MARGINS = {
    "perplexity": np.log1p(metrics.find("perplexity").margin or 0.0),
    "accuracy": metrics.find("acc").margin or 0.0,
    "latency": np.log1p(metrics.TIME_MARGIN),
}
SEED_DEVIATION = 0.005
"""Standard deviation of ln perplexity between seeds, where rows have one seed."""


@dataclass(frozen=True)
class Simulated:
    """Changes of many gates, as losses. Every array is [gates, metrics], and `margins` is
    [metrics].

    p, p_beyond: p values for a change of 0 and of the margin. p_within: as p_beyond, for the seeds
    that were run.
    """

    losses: np.ndarray
    p: np.ndarray
    p_beyond: np.ndarray
    p_within: np.ndarray
    margins: np.ndarray

    def regressions(self) -> np.ndarray:
        return (self._holm() < ALPHA) & (self.losses > self.margins)

    def passes(self) -> np.ndarray:
        """Return which metrics are OK."""
        return (self._holm() < ALPHA) & (self.losses <= self.margins)

    def _holm(self) -> np.ndarray:
        return holm(np.where(self.losses > self.margins, self.p_beyond, self.p_within))

    def regressions_before(self) -> np.ndarray:
        """Return what was a regression when the p value was for a change of 0."""
        return (holm(self.p) < ALPHA) & (self.losses > self.margins)


def holm(p: np.ndarray) -> np.ndarray:
    return np.stack([multiple_tests.holm(list(row)) for row in p])


def simulate(
    gates: int, losses: dict[str, np.ndarray], rng: Any, *, articles: int = 0, one_seed: str = ""
) -> Simulated:
    """Simulate gates. losses: true losses of the metrics by kind. articles: of a text, 0 for as
    many as it has.

    one_seed: "redrawn" if each side of a perplexity has another draw, "this seed" if the true
    losses are those of one draw.
    """
    estimates = [
        _perplexities(gates, losses["perplexity"], rng, articles, one_seed),
        _accuracies(gates, losses["accuracy"], rng),
        _latencies(gates, losses["latency"], rng),
    ]
    margins = np.concatenate([np.full(n, MARGINS[k]) for k, n in METRICS.items()])
    found, p, p_beyond, p_within = (
        np.concatenate(parts, 1) for parts in zip(*estimates, strict=True)
    )
    return Simulated(found, p, p_beyond, p_within, margins)


def true_losses(at: float = 0.0, **first: float) -> dict[str, np.ndarray]:
    """Return true losses of `at` margins, and other losses of the first metric of a kind."""
    out = {kind: np.full(n, at * MARGINS[kind]) for kind, n in METRICS.items()}
    for kind, loss in first.items():
        out[kind][0] = loss
    return out


Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _perplexities(gates: int, losses: np.ndarray, rng: Any, articles: int, one_seed: str) -> Arrays:
    changes, weights = real_changes(real_losses(RESULTS.parent / "tiny-methods"))
    level = multiple_tests.bonferroni(ALPHA, sum(METRICS.values()))
    out = np.empty((4, gates, len(losses)))
    for g in range(gates):
        columns = rng.integers(len(weights), size=articles or len(weights))
        w = weights[columns]
        rows = changes[rng.integers(len(changes), size=len(losses))][:, columns]
        drawn = rows * rng.choice((-1, 1), (len(losses), 1))
        draws = SEED_DEVIATION * rng.standard_normal(len(losses))
        moved = losses + np.sqrt(2) * draws if one_seed == "redrawn" else losses
        noise = measured_noise(SEED_DEVIATION, SEEDED_ROWS, rng) if one_seed else SeedNoise(0.0)
        for i, row in enumerate(drawn + moved[:, None] * w):
            alone = _estimate(row[None], w, level)
            found = add_seed_noise(alone, noise, level, MARGINS["perplexity"])
            out[:, g, i] = alone.value, found.p, found.p_margin, alone.p_margin
    return out[0], out[1], out[2], out[3]


def _estimate(sums: np.ndarray, weights: np.ndarray, level: float) -> Estimate:
    """Estimate as a gate does. No bootstrap is run where both |t| are under SCREEN: its p values
    are far above alpha / 20 there."""
    margin = MARGINS["perplexity"]
    found = bootstrap.estimate_means(sums, level, weights, margin=margin)
    if max(abs(found.value), abs(found.value - margin)) < SCREEN * found.stderr:
        return found
    return bootstrap.studentized_bootstrap(sums, weights, level, margin=margin)


def _accuracies(gates: int, losses: np.ndarray, rng: Any) -> Arrays:
    """Simulate accuracies. Each question has its chance to flip; a loss makes right ones likelier
    to be lost."""
    margin = MARGINS["accuracy"]
    own = rng.beta(0.5, 5.75, QUESTIONS)  # mean 0.08: most questions hardly ever flip
    own *= DISCORDANT / own.mean()
    out = np.empty((4, gates, len(losses)))
    for g in range(gates):
        flipped = (rng.random((len(losses), QUESTIONS)) < own).sum(1)
        lost = rng.binomial(flipped, 0.5 + losses / DISCORDANT / 2)
        for i, (gone, all_) in enumerate(zip(lost, flipped, strict=True)):
            gained = int(all_ - gone)
            p = mcnemar.mcnemar_p(int(gone), gained)
            beyond = students_p(mcnemar.tango_score(int(gone), gained, QUESTIONS, -margin), np.inf)
            out[:, g, i] = (gone - gained) / QUESTIONS, p, beyond, beyond
    return out[0], out[1], out[2], out[3]


def _latencies(gates: int, losses: np.ndarray, rng: Any) -> Arrays:
    ratios = rng.normal(losses[:, None], JITTER, (gates, len(losses), BLOCKS))
    mean, stderr = ratios.mean(2), ratios.std(2, ddof=1) / BLOCKS**0.5
    p, beyond = (
        2 * stdtr(BLOCKS - 1, -np.abs((mean - null) / stderr)) for null in (0.0, MARGINS["latency"])
    )
    return mean, p, beyond, beyond


def time_a_gate(records: int, changed: int) -> Figures:
    """Time a gate of a folder against a baseline file, each with this many records.

    A few are changed: their scores are read and resampled.
    """
    sys.path.insert(0, str(ROOT / "tests"))
    from helpers import fake_records

    reading = {"metric": "violated_groups", "value": 0.0, "unit": "1", "better": "lower"}
    about = {"measure": "pattern", "protocol": "targets", "token_digest": ""}
    with tempfile.TemporaryDirectory() as scratch:
        roots = Path(scratch) / "before", Path(scratch) / "after"
        for root, made in zip(roots, ("a", "b"), strict=True):
            store = Store(root)
            for i in range(changed):
                noise = i + 1 if made == "b" else 0
                fake_records.perplexity(root, method=f"p{i}", made=made, noise=noise)
            for i in range(records - changed):
                found = fake_records.record(f"m{i}", **about)
                found.readings = [fake_records.ReadingRow(**reading)]
                store.path(found.key).write_text(found.to_json(indent=1))
        kept = baseline.write(read(roots[0]), Path(scratch) / "baseline.zip")
        took, used = [], []
        for _ in range(3):
            began = time.process_time()
            took.append(seconds(lambda: _judge(kept, roots[1])))
            used.append(time.process_time() - began)
    label = {"records on either side": records, "of them changed": changed}
    return label | {"seconds": round(min(took), 2), "seconds of CPU": round(min(used), 2)}


def _judge(before: Path, after: Path) -> verdict.Comparison:
    return verdict.compare(read(before), read(after), gate_settings.read(None))


def errors(gates: int) -> Figures:
    """Return the figures that are simulated."""
    rng = np.random.default_rng(0)
    metrics = json.dumps(METRICS).replace('"', "").strip("{}")
    figures: Figures = {"gates": gates, "metrics a gate": metrics}
    first = METRICS["perplexity"]
    for label, at in (("no change", 0.0), ("each loses its margin", 1.0)):
        found = simulate(gates, true_losses(at), rng)
        ok = found.passes()
        figures[f"type I error, {label}, before"] = share(found.regressions_before().max(1))
        figures[f"type I error, {label}"] = share(found.regressions().max(1))
        figures[f"perplexities that are OK, {label}"] = share(ok[:, :first].ravel())
        figures[f"accuracies that are OK, {label}"] = share(ok[:, ACCURACIES].ravel())
    found = simulate(gates, true_losses(1.0), rng, one_seed="redrawn")
    figures["one seed: type I error, each loses its margin"] = share(found.regressions().max(1))
    for label, at, articles in (
        ("each loses its margin", 1.0, 0),
        ("no change, 60 articles", 0.0, 60),
    ):
        found = simulate(gates, true_losses(at), rng, one_seed="this seed", articles=articles)
        ok = found.passes()[:, :first]
        figures[f"one seed: perplexities that are OK, {label}"] = share(ok.ravel())
    found = simulate(gates, true_losses(accuracy=LOSS), rng)
    figures["power, 3 points of accuracy, before"] = share(found.regressions_before()[:, first])
    figures["power, 3 points of accuracy"] = share(found.regressions()[:, first])
    lost = true_losses(perplexity=float(np.log1p(PERPLEXITY_LOSS)))
    for articles in (13, 60):
        found = simulate(gates, lost, rng, articles=articles)
        label = f"power, 2% of perplexity, {articles} articles"
        figures[f"{label}, before"] = share(found.regressions_before()[:, 0])
        figures[label] = share(found.regressions()[:, 0])
    return figures


def main(gates: int = 1000, speed_only: bool = False, errors_only: bool = False) -> None:
    if speed_only and errors_only:
        sys.exit("give --speed-only or --errors-only, not both")
    figures = recorded("gate") if speed_only else errors(gates)
    speed = recorded("gate")["speed"] if errors_only else time_a_gate(10_000, 50)
    finish("gate", figures | {"speed": speed})


if __name__ == "__main__":
    start(main)
