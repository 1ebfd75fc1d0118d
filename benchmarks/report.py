"""The time to make a leaderboard of 8,000 records, and to sort and filter it in a browser.

The records are synthetic, in a temporary folder: 2,000 rows of one model, four measures each, with
the scores per item from which intervals are computed. Seconds of wall time and of CPU; in the
browser the milliseconds from a click or a key to the frame with the table.
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

from bench.parts.leaderboard import board_files as leaderboard

QUESTIONS = 50
RECORDS_OF_ROW = 4
ACTIONS = {
    "sort": """document.querySelector('[data-column="0"] button').click()""",
    "filter": "find.value = find.value ? '' : 'row 7'; find.dispatchEvent(new Event('input'))",
    "columns": "document.querySelector('[data-metric=sparsity]').click()",
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


def fill(root: Path, rows: int, first: int = 0) -> int:
    """Write records of rows `first` to `rows`. Return how many records that many rows have."""
    sys.path.insert(0, str(ROOT / "tests"))
    from helpers import fake_records

    dice = np.random.default_rng(first)
    for i in range(first, rows):
        quantizer = ("none", "int8", "nf4")[i % 3]
        about = {"method": f"row {i}", "seed": 0, "identity": {"quantizer": quantizer}}
        fake_records.perplexity(root, i / 1000, noise=i + 1, **about)
        fake_records.accuracy(root, lost=i % 20, n=QUESTIONS, **about)
        fake_records.counted(root, "violated_groups", 0.0, **about)
        fake_records.bits(root, int(dice.integers(128, 512)) / 64, **about)
    return RECORDS_OF_ROW * rows


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
        assert table and page.viewport_size, "there is no table"
        assert table["y"] < page.viewport_size["height"], "no table is on the first screen"
        for name, action in ACTIONS.items():
            times = [page.evaluate(TIMED.replace("ACTION", action)) for _ in range(6)]
            found[f"{name}, ms"] = round(float(np.median(times[1:])))
        chromium.close()
    return found


def main(rows: int = 2000) -> None:
    with tempfile.TemporaryDirectory() as room:
        root = Path(room)
        count = fill(root / "made", rows)
        used = time.process_time()
        made: dict[str, bytes] = {}
        took = seconds(lambda: made.update(leaderboard.build([root / "made"], root / "nothing")))
        used = time.process_time() - used
        leaderboard.write(made, root / "out")
        figures: Figures = {"records": count, "report, seconds": round(took, 2)}
        figures["report, seconds of CPU"] = round(used, 2)
        figures["first page, MB"] = round(len(made["leaderboard.html"]) / 1e6, 2)
        name = "leaderboard-tiny.html"
        page = made[name]
        figures["page, MB"] = round(len(page) / 1e6, 2)
        figures["page compressed, MB"] = round(len(gzip.compress(page)) / 1e6, 2)
        figures |= browse(root / "out" / name)
    finish("report", figures)


if __name__ == "__main__":
    start(main)
