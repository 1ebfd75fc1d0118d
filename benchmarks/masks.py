"""Agreement of our masks with llm-compressor's on 15 blocks, over several calibration draws.

Each side prunes smollm2-135m-instruct-q4 on its own: its block i sees the output of its pruned
blocks. A near-tie that rounding settles the other way is then multiplied by every later block. So a
draw either agrees almost everywhere or comes apart at some block, which only a trial shows. On the
same inputs the two agree (benchmarks/prune.py).

pip install -e '.[llmcompressor]' && python benchmarks/masks.py [--draws 3]
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from harness import MODEL, Figures, draw_tokens, finish, open_model, start
from prune import MATCH_BLOCKS, METHODS, SEQLEN, SEQUENCES, agreement, ours, theirs
from torch import nn

from bench.inputs import loading
from bench.system.devices import cores
from methods.contract.method import Compute


def main(draws: int = 3) -> None:
    torch.set_num_threads(cores())
    found, _, everything = open_model()
    dense: Any = loading.load(found.folder, Compute())
    # Later blocks change nothing here.
    dense.model.layers = nn.ModuleList(list(dense.model.layers)[:MATCH_BLOCKS])
    dense.config.num_hidden_layers = MATCH_BLOCKS
    targets = tuple(t for t in everything if int(t.split(".")[2]) < MATCH_BLOCKS)
    figures: Figures = {"model": MODEL, "blocks": MATCH_BLOCKS}
    figures["tokens"] = f"{SEQUENCES} x {SEQLEN}"
    for method in METHODS:
        least, by_block = {}, {}
        for draw in range(draws):
            tokens = draw_tokens(found.folder, SEQUENCES, SEQLEN, draw)
            mine, other = copy.deepcopy(dense), copy.deepcopy(dense)
            ours(method, mine, tokens, targets)
            theirs(method, other, tokens)
            shares = [round(share, 6) for share in agreement(other, mine)]
            least[f"draw {draw}: least agreement"] = min(shares)
            by_block[f"draw {draw}"] = shares
            print(method, draw, shares, flush=True)
        figures[method] = least | {"by block": [by_block]}
    finish("masks", figures)


if __name__ == "__main__":
    start(main)
