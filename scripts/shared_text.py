"""Write bench/parts/sources/shared_text.json: the paragraphs of each source that share a passage
with a test question. Print the digest of each text without them, which packages.py pins.

Run `bench pull --data-dir MIRROR all` first, then `python scripts/shared_text.py MIRROR`.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from bench.inputs import corpora, tracks, wikimini
from bench.parts.sources import packages, removed, shared

FILE = Path(removed.__file__).with_name("shared_text.json")
PACKED = (packages.CODE, packages.TECHNICAL, packages.LANGUAGES)


def remove(paragraphs: list[str], theirs: shared.Passages) -> list[str]:
    """Return the paragraphs that share no passage, alone or with the words before them."""
    kept, before = [], ""
    for paragraph in paragraphs:
        text = f"{before} {paragraph}"
        if shared.are_in(shared.passages(text), theirs).any():
            continue
        kept.append(paragraph)
        before = " ".join(shared.WORD.findall(text)[1 - shared.LENGTH :])
    return kept


def main(mirror: Path) -> None:
    tasks = tracks.all_tasks()
    theirs = np.unique(np.concatenate([shared.of_task(name, mirror) for name in tasks]))
    articles = wikimini.articles("train")
    sources = {source.name: source.paragraphs(mirror) for source in PACKED}
    sources["wiki"] = [line for article in articles for line in article.text.split("\n")]
    whole = corpora.documents("wiki-mini", "calibration", None)
    out: dict[str, dict[str, Any]] = {}
    out["wiki-mini"] = {"found": shared.count(whole, mirror, tasks), "removed": []}
    for name, paragraphs in sources.items():
        kept = set(remove(paragraphs, theirs))
        gone = sorted({removed.digest_of(one) for one in paragraphs if one not in kept})
        text = "\n\n".join(one for one in paragraphs if removed.digest_of(one) not in gone)
        assert shared.count([text], mirror, tasks) == {}, name
        found = shared.count(["\n\n".join(paragraphs)], mirror, tasks)
        out[name] = {"found": found, "removed": gone}
        digest = hashlib.sha256(text.encode()).hexdigest()
        print(f"{name}: {found}, {len(gone)} of {len(paragraphs)} paragraphs left out, {digest}")
    FILE.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
