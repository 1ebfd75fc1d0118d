"""A program `nvidia-smi` that prints recorded rows, first on the PATH."""

import os
import sys

H100 = (
    "GPU-7a1f0c3e-5b6d-4e21-9c55-0f2a8d1b3c47, 550.54.15, 700.00 W, 1980 MHz, 2619 MHz, 33, "
    "Enabled, Disabled, 4 MiB"
)
RTX4090 = (
    "GPU-11f0c3e7-0b6d-4e21-9c55-0f2a8d1b3c47, 550.54.15, 450.00 W, 210 MHz, 405 MHz, 41, "
    "[N/A], [N/A], 1 MiB"
)

COLUMNS = (
    "uuid,driver_version,power.limit,clocks.sm,clocks.mem,temperature.gpu,ecc.mode.current,"
    "mig.mode.current,memory.used"
)
"""Columns of the rows, by the names of `nvidia-smi --help-query-gpu`."""


def install(monkeypatch, folder, *rows, status=0):
    """Write the program into a folder. It prints the rows if it is asked as this project does."""
    program = folder / "nvidia-smi"
    program.write_text(
        f"#!{sys.executable}\n"
        "import sys\n"
        f"assert sys.argv[1] == '--query-gpu={COLUMNS}', sys.argv\n"
        "assert sys.argv[2:] == ['--format=csv,noheader'], sys.argv\n"
        f"print({chr(10).join(rows)!r})\n"
        f"sys.exit({status})\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
