"""Write bench/assets/task_guesses.json: what guesses reach on the tasks of stored records that do
not hold it.

python scripts/task_guesses.py MIRROR    MIRROR: a folder that `bench pull TASK --from index
--data-dir MIRROR` filled

A record of a task is known by the digest of the task's data. If the data came from elsewhere and
has another digest, its questions must have the same hashes, in the same number.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from bench.comparing import result_arguments
from bench.inputs import lmeval, tasks
from bench.inputs.task_yaml import read_task
from bench.results import guessing

ROOT = Path(__file__).parent.parent


def main() -> None:
    mirror = Path(sys.argv[1])
    known: dict[str, Any] = {}
    for folder in sorted(path.parent for path in (ROOT / "results").glob("*/records")):
        side = result_arguments.read(folder)
        for record in side.records:
            answers = record.identity.measure == "zeroshot" and record.status == "ok"
            if not answers or "chance" in record.notes:
                continue
            name, limit = record.identity.protocol.name, record.identity.protocol.limit
            data = record.key_inputs["measure"]["content"]
            asked = str(limit or "all")
            if asked in known.get(name, {}).get(data, {}):
                continue
            task = read_task(name, tasks.TASK_FILES.get(name, ""))
            guess, hashes = lmeval.guesses(task, tasks.data_folder(task, mirror), limit)
            if guess is None:
                continue
            own = {str(item).partition("#")[0] for item in side.items(record).ids}
            if own != set(hashes):
                sys.exit(f"{name} of {folder.name}: other questions than in {mirror}")
            chance, majority = (round(share, 6) for share in guess)
            of_data = known.setdefault(name, {}).setdefault(data, {})
            of_data[asked] = {"chance": chance, "majority": majority}
    text = json.dumps(known, indent=1, sort_keys=True)
    guessing.KNOWN.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
