"""Prune or quantize a model with llm-compressor's Wanda, SparseGPT or GPTQ, and time it.

The last line is the seconds of the processor and of the clock, and the version. W4A16 has groups of
128. SparseGPT and Wanda are 2:4. 0.14 saves a 2:4 model dense.

python llm_compressor_one_shot.py METHOD ORIGINAL IDS OUT
"""
# /// script
# dependencies = ["llmcompressor==0.14.0.1", "compressed-tensors==0.19.0", "transformers==5.17.0"]
# ///

import json
import sys
import time
from importlib.metadata import version

import numpy as np
import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier
from llmcompressor.modifiers.quantization import GPTQModifier
from transformers import AutoModelForCausalLM, AutoTokenizer

method, original, ids, out = sys.argv[1:]
torch.set_num_threads(1)
tokens = np.load(ids)
if method == "gptq":
    weights = QuantizationArgs(
        num_bits=4, type="int", strategy="group", group_size=128, symmetric=True, actorder="static"
    )
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    recipe = GPTQModifier(ignore=["lm_head"], config_groups={"all": scheme})
else:
    modifier = {"wanda": WandaPruningModifier, "sparsegpt": SparseGPTModifier}[method]
    targets = [r"re:model\.layers\.\d+\..*_proj$"]
    recipe = modifier(sparsity=0.5, mask_structure="2:4", targets=targets)
model = AutoModelForCausalLM.from_pretrained(original, dtype=torch.bfloat16)
started = time.process_time(), time.monotonic()
oneshot(
    model=model,
    dataset=Dataset.from_dict({"input_ids": tokens.tolist()}),
    recipe=recipe,
    max_seq_length=tokens.shape[1],
    num_calibration_samples=len(tokens),
    shuffle_calibration_samples=False,
)
took = time.process_time() - started[0], time.monotonic() - started[1]
model.save_pretrained(out, save_compressed=method == "gptq")
AutoTokenizer.from_pretrained(original).save_pretrained(out)
print(json.dumps({"cpu": took[0], "wall": took[1], "version": version("llmcompressor")}))
