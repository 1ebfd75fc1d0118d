"""Prune a model to 2:4 with llm-compressor's Wanda, and save it as compressed-tensors stores 2:4:
kept values and bitmasks.

0.8 is the last minor version that saves the bitmask. Later ones save such a model dense.

python llm_compressor_24.py ORIGINAL IDS OUT
"""
# /// script
# dependencies = ["llmcompressor==0.8.1", "compressed-tensors==0.12.2", "transformers==4.56.2", "datasets==4.1.1"]
# ///

import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.pruning import WandaPruningModifier
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

original, ids, out = sys.argv[1:]
drawn = np.load(ids)
calibration = drawn["calibration"][:8]
torch.set_num_threads(1)
if not Path(out).exists():
    config = AutoConfig.from_pretrained(original)
    # transformers 5 writes the key that 4.56 does not read.
    config.rope_theta = config.rope_parameters["rope_theta"]
    model = AutoModelForCausalLM.from_pretrained(original, config=config, dtype=torch.bfloat16)
    oneshot(
        model=model,
        processor=PreTrainedTokenizerFast(tokenizer_file=f"{original}/tokenizer.json"),
        dataset=Dataset.from_dict({"input_ids": calibration.tolist()}),
        recipe=WandaPruningModifier(
            sparsity=0.5, mask_structure="2:4", targets=[r"re:model\.layers\.\d+\..*_proj$"]
        ),
        max_seq_length=calibration.shape[1],
        num_calibration_samples=len(calibration),
    )
    model.save_pretrained(out, save_compressed=True)
    shutil.copy(f"{original}/tokenizer.json", out)
again = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
with torch.no_grad():
    np.save(f"{out}.logits.npy", again(torch.tensor(drawn["probe"][None])).logits[0].numpy())
