"""The time to make a leaderboard of 10,000 records, and to sort and filter it in a browser.

The records are synthetic, in a temporary folder: 2,000 rows of one model, five measures each, a few
of them with per-item scores, so that intervals are computed too. Seconds of wall time and of CPU;
in the browser the milliseconds from a click or a key to the frame with the table.
"""

from __future__ import annotations

import gzip
import importlib.util
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from harness import ROOT, Figures, finish, seconds, start

from bench.reporting import leaderboard
from bench.results.store import Store

MEASURES = (
    ("agreement", "kl"),
    ("pattern", "sparsity"),
    ("size", "bytes_packed"),
)
QUESTIONS = 50
PROTOCOLS = {
    "perplexity": "wiki-mini@128",
    "agreement": "wiki-mini@128",
    "pattern": "targets",
    "size": "weights",
}
ACTIONS = {
    "sort": """document.querySelector('[data-column="0"] button').click()""",
    "filter": "find.value = find.value ? '' : 'row 7'; find.dispatchEvent(new Event('input'))",
    "columns": "document.querySelector('[data-metric=kl]').click()",
    "pick": (
        "sliders[0].value = sliders[0].value === '3' ? '9' : '3'; sliders[0].dispatchEvent(new "
        "Event('input'))"
    ),
}
LOADING = {
    "first table visible": "performance.getEntriesByName('first-contentful-paint')[0].startTime",
    "page loaded": "performance.getEntriesByType('navigation')[0].loadEventEnd",
}
"""Since the address was opened."""
TIMED = """async () => {
    const find = document.getElementById("find"), started = performance.now();
    ACTION;
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    return performance.now() - started;
}"""


def fill(root: Path, rows: int, paired: int) -> int:
    """Write records of some rows, `paired` of them with scores by window. Returns how many."""
    sys.path.insert(0, str(ROOT / "tests"))
    from helpers import fake_records

    dice = np.random.default_rng(0)
    store = Store(root)

    def write(measure: str, metric: str, value: float, about: Figures) -> None:
        found = fake_records.record(measure=measure, protocol=PROTOCOLS[measure], **about)
        kind = {"unit": "B" if measure == "size" else "1", "stderr": value / 100, "n": 900}
        reading = fake_records.ReadingRow(metric=metric, value=value, better="lower", **kind)
        found.readings = [reading]
        store.path(found.key).write_text(found.to_json(indent=1))

    for i in range(rows):
        quantizer = ("none", "int8", "nf4")[i % 3]
        about = {"method": f"row {i}", "seed": 0, "identity": {"quantizer": quantizer}}
        if i < paired:
            fake_records.perplexity(root, i / 1000, noise=i + 1, **about)
        else:
            write("perplexity", "perplexity", 30 + 9 * dice.random(), about)
        # A record of accuracy without answers contradicts itself.
        fake_records.accuracy(root, lost=i % 20, n=QUESTIONS, **about)
        for measure, metric in MEASURES:
            write(measure, metric, (1e6 if measure == "size" else 1) * (1 + dice.random()), about)
    return rows * (2 + len(MEASURES))


def browse(page_file: Path) -> Figures:
    """Return the milliseconds of each action, the median of 5, if there is a browser."""
    browser = shutil.which("chromium")
    if browser is None or importlib.util.find_spec("playwright") is None:
        return {"browser": "skipped: no chromium, or no playwright"}
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page()
        page.goto(page_file.as_uri())
        found = {f"{name}, ms": round(page.evaluate(ask)) for name, ask in LOADING.items()}
        table = page.locator("table").first.bounding_box()
        assert table["y"] < page.viewport_size["height"], "no table is on the first screen"
        for name, action in ACTIONS.items():
            times = [page.evaluate(TIMED.replace("ACTION", action)) for _ in range(6)]
            found[f"{name}, ms"] = round(float(np.median(times[1:])))
        chromium.close()
    return found


def main(rows: int = 2000, paired: int = 40) -> None:
    with tempfile.TemporaryDirectory() as room:
        root = Path(room)
        count = fill(root / "made", rows, paired)
        used = time.process_time()
        made: dict[str, bytes] = {}
        took = seconds(lambda: made.update(leaderboard.build([root / "made"], root / "nothing")))
        used = time.process_time() - used
        leaderboard.write(made, root / "out")
        figures: Figures = {"records": count, "report, seconds": round(took, 2)}
        figures["report, seconds of CPU"] = round(used, 2)
        page = made["leaderboard.html"]
        figures["page, MB"] = round(len(page) / 1e6, 2)
        figures["page compressed, MB"] = round(len(gzip.compress(page)) / 1e6, 2)
        figures |= browse(root / "out" / "leaderboard.html")
    finish("report", figures)


if __name__ == "__main__":
    start(main)
