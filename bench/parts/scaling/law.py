"""A power law for the cost of sparsity over model size and training tokens, fitted to a grid of
runs.

The CAST paper fits such a law, but its form and coefficients are not known here. This one is our
own:

    L(N, D) = L_control(N, D) + A (N / N0)^-a (D / D0)^-b

L is the mean cross-entropy in nats, N the number of weights, D the training tokens; N0 and D0 are
their geometric means over the grid. The control is measured, so only the excess over it is fitted.
If all runs have the same N or D, its term is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.results.record import Record
from bench.results.rows import newest
from bench.results.store import ReadOnlyStore
from bench.stats.bootstrap import Array
from methods.contract.errors import UserError

DRAWS = 1000
TAILS = (0.025, 0.975)
"""Quantiles at the ends of each interval."""
SCALE = 0.1
"""Smallest relative error of an outlier."""
MAX_SCALE = 100.0
"""Largest factor of a draw's residuals. Larger ones hardly move the ends of an interval, and their
exponentials overflow."""
TOLERANCE = 1e-8
MAX_ROUNDS = 500
"""Largest number of iterations. It is enough for runs within a factor of two of the law."""


class GridRun(NamedTuple):
    """One run of the grid. excess: NLL sums above the control, by article. tokens: tokens of each
    article."""

    model: str
    weights: int
    training: int
    excess: Array
    tokens: Array

    @property
    def loss(self) -> float:
        """Return the nats per token above the control."""
        return float(self.excess.sum() / self.tokens.sum())


class FitInterval(NamedTuple):
    """A coefficient or a prediction, with its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Law:
    """A fitted law: its coefficients with bootstrap intervals, and its predictions."""

    coefficients: dict[str, FitInterval]
    n0: float
    d0: float
    points: tuple[GridRun, ...]
    draws: Array = field(repr=False)
    """Coefficients refitted on resampled articles, [DRAWS, coefficients]."""
    spreads: Array = field(repr=False)
    """Standard deviation of the log residuals, from seeds and the law's misfit, in each draw."""

    def excess(self, weights: float, training: float, row: Sequence[float] | None = None) -> float:
        """Return the nats per token above the control. row: coefficients of one bootstrap draw."""
        values = {k: v.value for k, v in self.coefficients.items()}
        if row is not None:
            values = dict(zip(values, row, strict=True))
        size = (weights / self.n0) ** -values.get("a", 0.0)
        return float(values["A"] * size * (training / self.d0) ** -values.get("b", 0.0))

    def predict(self, weights: float, training: float) -> FitInterval:
        """Predict the excess of a run that was not fitted. The interval has the uncertainty of the
        fit and of the run."""
        noise = np.random.default_rng(1).normal(0, self.spreads)
        samples = [
            self.excess(weights, training, row) * float(np.exp(e))
            for row, e in zip(self.draws, noise, strict=True)
        ]
        low, high = np.quantile(samples, TAILS)
        return FitInterval(self.excess(weights, training), float(low), float(high))


def fit(points: Sequence[GridRun], draws: int = DRAWS) -> Law:
    """Fit the law. Refuse too few points, and a run at or below its control. draws: number of
    bootstrap draws."""
    n = np.array([p.weights for p in points], dtype=float)
    d = np.array([p.training for p in points], dtype=float)
    n0, d0 = (float(np.exp(np.log(x).mean())) for x in (n, d))
    terms = {"A": np.ones(len(points))}
    terms |= {
        name: -np.log(x / x0) for name, x, x0 in (("a", n, n0), ("b", d, d0)) if len(set(x)) > 1
    }
    freedom = len(points) - len(terms)
    if freedom < 1:
        raise UserError(
            f"a law with {len(terms)} coefficients needs at least {len(terms) + 1} runs, and "
            f"there are {len(points)}: run more models or budgets"
        )
    for p in points:
        if p.loss <= 0:
            raise UserError(
                f"{p.model} at {p.training:,} tokens is not above its control ({p.loss:+.4f} "
                "nats): a power law cannot be fitted to it: leave it out, or use another control"
            )
    design = np.stack(list(terms.values()), axis=1)
    logs = np.log([p.loss for p in points])
    best = _solve(design, logs)
    residuals = logs - design @ best
    # Few residuals do not tell their standard deviation. Dividing by the root of a chi-squared
    # variable over its degrees of freedom gives draws of Student's t.
    scales = np.sqrt(freedom / np.random.default_rng(2).chisquare(freedom, draws)).clip(
        max=MAX_SCALE
    )
    spreads = np.sqrt((residuals**2).sum() / freedom) * scales
    rows = _resampled(points, design, best, residuals * np.sqrt(len(points) / freedom), scales)
    rows[:, 0] = np.exp(rows[:, 0])
    best[0] = np.exp(best[0])
    bounds = np.quantile(rows, TAILS, axis=0)
    coefficients = {
        k: FitInterval(float(v), float(low), float(high))
        for k, v, low, high in zip(terms, best, *bounds, strict=True)
    }
    return Law(coefficients, n0, d0, tuple(points), rows, spreads)


def _solve(design: Array, logs: Array) -> Array:
    """Fit coefficients [..., names] to the logs of losses [..., points], robust to outliers (soft
    L1 of the relative error).

    The method is least squares, reweighted by the residuals until no solution moves. The loss is
    convex, so this is its minimum.
    """
    solution = logs @ np.linalg.pinv(design).T
    for _ in range(MAX_ROUNDS):
        # Square roots of the weights.
        roots = (1 + ((logs - solution @ design.T) / SCALE) ** 2) ** -0.25
        before, solution = (
            solution,
            (np.linalg.pinv(roots[..., None] * design) @ (roots * logs)[..., None])[..., 0],
        )
        if np.abs(solution - before).max() < TOLERANCE:
            break
    return solution


def _resampled(
    points: Sequence[GridRun], design: Array, best: Array, residuals: Array, scales: Array
) -> Array:
    """Refit coefficients to resampled data: articles, drawn once for all runs, then residuals.
    scales: of each draw's residuals.

    What residuals change is scaled after the fit, because the fit would take large ones for
    outliers.
    """
    rng = np.random.default_rng(0)
    excess = np.stack([p.excess for p in points])  # [points, articles]
    tokens = points[0].tokens
    clusters = len(tokens)
    whole = excess.sum(1) / tokens.sum()
    logs, noise = np.empty((2, len(scales), len(points)))
    for k in range(len(scales)):
        columns = rng.integers(clusters, size=clusters)
        ratio = np.maximum(excess[:, columns].sum(1) / tokens[columns].sum(), 1e-6) / whole
        logs[k], noise[k] = design @ best + np.log(ratio), rng.choice(residuals, size=len(points))
    fitted = _solve(design, logs)
    return fitted + (_solve(design, logs + noise) - fitted) * scales[:, None]


def read(results: Path, method: str, control: str) -> list[GridRun]:
    """Read the grid in a results folder: each model and budget with both rows, measured on the same
    articles."""
    store = ReadOnlyStore(results)
    cells: dict[tuple[str, str], dict[str, list[Record]]] = {}
    weights: dict[str, int] = {}
    for record in newest(store):
        identity = record.identity
        if record.status != "ok" or identity.quantizer != "none":
            continue
        # Others may have fewer, or terms.
        if identity.measure == "size" and identity.method in (
            "dense",
            control,
        ):
            weights[identity.model] = int(
                next(r.value for r in record.readings if r.metric == "parameters") or 0
            )
        elif (
            identity.measure == "perplexity"
            and identity.method in (method, control)
            and identity.training
        ):
            runs = cells.setdefault((identity.model, identity.training.label), {})
            runs.setdefault(identity.method, []).append(record)
    store.require_whole()
    points = []
    for (model, _), rows in sorted(cells.items()):
        if method in rows and control in rows and model in weights:
            training = rows[method][0].identity.training
            assert training is not None
            _require_one_kind(model, rows, method, control)
            excess, tokens = _excess(store, rows[method], rows[control])
            points.append(
                GridRun(Path(model).name, weights[model], training.tokens or 0, excess, tokens)
            )
    if not points:
        raise UserError(
            f"{results} has no model and budget with {method!r}, {control!r} and their size: run "
            f"bench run --methods {method},{control} over models and --set training.tokens="
        )
    if len({len(p.tokens) for p in points}) > 1:
        raise UserError(
            f"runs in {results} were measured on different articles: one law cannot describe them"
        )
    return sorted(points, key=lambda p: (p.weights, p.training))


def _require_one_kind(
    model: str, rows: Mapping[str, list[Record]], method: str, control: str
) -> None:
    """Raise UserError if a column has several values, or texts differ. The control has no
    calibration and no pattern."""
    both = [*rows[method], *rows[control]]
    for column in ("calibration", "pattern", "targets", "dtype", "device"):
        records = rows[method] if column in ("calibration", "pattern") else both
        values = sorted({str(record.identity.labels()[column]) for record in records})
        if len(values) > 1:
            raise UserError(
                f"runs of {model} differ in {column} ({', '.join(values)}): a law describes one; "
                "keep each in a results folder"
            )
    if len({record.token_digest for record in both}) > 1:
        texts = sorted({record.identity.protocol.label for record in both})
        raise UserError(
            f"{method} and {control} of {model} were measured on different texts "
            f"({', '.join(texts)}): measure both on one, in a results folder"
        )


def _excess(
    store: ReadOnlyStore, sparse: Iterable[Record], control: Iterable[Record]
) -> tuple[Array, Array]:
    """Return NLL sums by article above the control's, as means over seeds, and the tokens of each
    article."""

    def sums(records: Iterable[Record]) -> tuple[Array, Array]:
        each = [store.items(record) for record in records]
        articles = [np.unique(items.clusters.astype(str), return_inverse=True)[1] for items in each]
        values: list[Any] = [
            np.bincount(k, x.columns["value"]) for k, x in zip(articles, each, strict=True)
        ]
        tokens: Any = np.bincount(articles[0], each[0].weights)
        return np.mean(values, axis=0), tokens

    a, tokens = sums(sparse)
    b, _ = sums(control)
    return a - b, tokens


def predict_holdout(
    points: Sequence[GridRun], draws: int = DRAWS
) -> tuple[Law, GridRun, FitInterval]:
    """Fit all runs but the largest. Return the law, this run, and its prediction."""
    holdout = max(points, key=lambda p: (p.weights * p.training, p.training))
    law = fit([p for p in points if p is not holdout], draws)
    return law, holdout, law.predict(holdout.weights, holdout.training)


def to_rows(law: Law, holdout: GridRun, predicted: FitInterval) -> list[dict[str, Any]]:
    """Return coefficients, and the holdout with its prediction, as printable rows."""
    rows: list[dict[str, Any]] = [
        {"what": k, "value": f"{v.value:.4g}", "95% interval": f"{v.low:.4g} to {v.high:.4g}"}
        for k, v in law.coefficients.items()
    ]
    rows.append({"what": "N0, D0", "value": f"{law.n0:.4g}, {law.d0:.4g}", "95% interval": ""})
    inside = "inside" if predicted.low <= holdout.loss <= predicted.high else "outside"
    held = {
        "what": f"held out: {holdout.model}, {holdout.training:,} tokens",
        "value": f"{holdout.loss:.4g} nats, predicted {predicted.value:.4g}",
        "95% interval": f"{predicted.low:.4g} to {predicted.high:.4g}, {inside}",
    }
    return [*rows, held]
