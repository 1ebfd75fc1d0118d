"""Agreement of our masks with llm-compressor's on the first 15 blocks of smollm2-135m-instruct-q4,
over several calibration draws.

Each side runs on its own: its block i sees what its own pruned blocks hand on. One near-tie that
rounding settles the other way is then multiplied by every block that follows, so a draw either
agrees almost everywhere or comes apart at some block; which, only trying tells. On the same inputs
the two agree (benchmarks/prune.py).

pip install -e '.[llmcompressor]' && python benchmarks/masks.py [--draws 3]
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from harness import draw_tokens, finish, start
from prune import MATCH_BLOCKS, METHODS, SEQLEN, SEQUENCES, agreement, ours, theirs
from torch import nn

from bench.inputs import download, loading
from bench.system.devices import cores
from methods.contract.method import Compute
from methods.model.targets import find_targets


def main(draws: int = 3) -> None:
    torch.set_num_threads(cores())
    found = download.pull("smollm2-135m-instruct-q4")
    dense = loading.load(found.folder, Compute())
    # What comes after changes nothing here.
    dense.model.layers = nn.ModuleList(list(dense.model.layers)[:MATCH_BLOCKS])
    dense.config.num_hidden_layers = MATCH_BLOCKS
    opened = found.open()
    everything = find_targets(opened.config, opened.shapes())
    targets = tuple(t for t in everything if int(t.split(".")[2]) < MATCH_BLOCKS)
    figures: dict[str, Any] = {
        "model": "smollm2-135m-instruct-q4",
        "blocks": MATCH_BLOCKS,
        "tokens": f"{SEQUENCES} x {SEQLEN}",
    }
    for method in METHODS:
        least: dict[str, Any] = {}
        by_block = {}
        for draw in range(draws):
            tokens = draw_tokens(found.folder, SEQUENCES, SEQLEN, draw)
            mine, other = copy.deepcopy(dense), copy.deepcopy(dense)
            ours(method, mine, tokens, targets)
            theirs(method, other, tokens)
            shares = agreement(other, mine)
            least[f"draw {draw}: least agreement"] = round(min(shares), 6)
            by_block[f"draw {draw}"] = [round(s, 6) for s in shares]
            print(method, draw, by_block[f"draw {draw}"], flush=True)
        figures[method] = least | {"by block": [by_block]}
    finish("masks", figures)


if __name__ == "__main__":
    start(main)
