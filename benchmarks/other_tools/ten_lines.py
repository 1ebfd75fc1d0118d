"""Prune a model to 2:4 by magnitude in ten lines, and save it as safetensors.

python ten_lines.py ORIGINAL IDS OUT
"""
# /// script
# dependencies = ["transformers>=5", "torch"]
# ///

import sys

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

original, ids, out = sys.argv[1:]
torch.set_num_threads(1)
model = AutoModelForCausalLM.from_pretrained(original, dtype=torch.bfloat16)
for linear in model.model.modules():
    if isinstance(linear, torch.nn.Linear):
        groups = linear.weight.data.view(-1, 4)
        groups.scatter_(1, groups.abs().topk(2, largest=False).indices, 0)
model.save_pretrained(out)
AutoTokenizer.from_pretrained(original).save_pretrained(out)

again = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
with torch.no_grad():
    np.save(f"{out}.logits.npy", again(torch.tensor(np.load(ids)["probe"][None])).logits[0].numpy())
