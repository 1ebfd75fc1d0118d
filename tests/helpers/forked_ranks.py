"""Programs of several ranks."""

import subprocess
import tempfile

import torch
import torch.distributed as dist
from torch.multiprocessing import start_processes

from bench.system import interpreter


def launch(program, *arguments):
    """Run a module of this folder as a program."""
    command = interpreter.command(program.__name__, *map(str, arguments))
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def run_ranks(world, main, *arguments):
    """Call main(*arguments) in `world` processes, one group. All end where one fails."""
    with tempfile.TemporaryDirectory() as folder:
        start_processes(_join, (world, folder, main, arguments), nprocs=world, start_method="fork")


def _join(rank, world, folder, main, arguments):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world
    )
    main(*arguments)
    dist.destroy_process_group()
