"""Check fidelity.json of a model folder: python check_receipt.py FOLDER. It needs Python alone."""

import hashlib
import json
import sys
from pathlib import Path, PurePosixPath


def find_faults(folder: Path) -> list[str]:
    """Return what is wrong with the receipt of a model folder. Empty: it holds."""
    try:
        receipt = json.loads((folder / "fidelity.json").read_text(encoding="utf-8"))
        stated = receipt.pop("digest")
        text = json.dumps(receipt, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
        if (receipt["format"], receipt["version"]) != ("cast-bench fidelity receipt", 1):
            return ["it is no receipt of version 1"]
        own = hashlib.sha256(text).hexdigest()
        faults = [] if own == stated else ["its digest is that of another receipt"]
        for name, digest in receipt["files"].items():
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or not (folder / path).is_file():
                faults.append(f"{name} is missing")
            else:
                with (folder / path).open("rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                        faults.append(f"{name} has changed")
        for number in receipt["numbers"]:
            if number["record"] not in receipt["records"]:
                faults.append(f"{number['metric']} has no record")
            for part in (number, number.get("change") or {"low": None}):
                if part["low"] is not None and not part["low"] <= part["value"] <= part["high"]:
                    faults.append(f"{number['metric']} is outside its interval")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as fault:
        return [f"it cannot be read: {type(fault).__name__} {fault}"]
    return faults


if __name__ == "__main__":
    print("\n".join(found := find_faults(Path(sys.argv[1]))) or "the receipt holds")
    sys.exit(bool(found))
