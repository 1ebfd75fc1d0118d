"""A program of several ranks: its processes are forked from one that has imported all, since imports cost more than what they do."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing import start_processes

TESTS = Path(__file__).parents[1]


def launch(program, *arguments):
    """Run a file of this folder that calls `run_ranks` in a separate process."""
    paths = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, program.__file__, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


def run_ranks(world, main, *arguments):
    """Call main(*arguments) in `world` processes, one group. All end where one fails, and what it raised is raised."""
    with tempfile.TemporaryDirectory() as folder:
        start_processes(_join, (world, folder, main, arguments), nprocs=world, start_method="fork")


def _join(rank, world, folder, main, arguments):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    main(*arguments)
    dist.destroy_process_group()
