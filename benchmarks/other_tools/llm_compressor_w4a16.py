"""Quantize a model to W4A16 with llm-compressor's GPTQ, and save it as compressed-tensors.

Groups of 64, because the preset's 128 does not divide 576 inputs. The loader computes a weight in
the number format that it is asked for. Here that is the one of the folder, bfloat16. The weights
then go into float32 linears, so that the logits have no rounding of bfloat16.

python llm_compressor_w4a16.py ORIGINAL IDS OUT
"""
# /// script
# dependencies = ["llmcompressor==0.14.0.1", "compressed-tensors==0.19.0", "transformers==5.17.0"]
# ///

import sys
from pathlib import Path

import numpy as np
import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import GPTQModifier
from transformers import AutoModelForCausalLM, AutoTokenizer, CompressedTensorsConfig

original, ids, out = sys.argv[1:]
drawn = np.load(ids)
torch.set_num_threads(1)
if not Path(out).exists():
    weights = QuantizationArgs(
        num_bits=4, type="int", strategy="group", group_size=64, symmetric=True, actorder="static"
    )
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    model = AutoModelForCausalLM.from_pretrained(original, dtype=torch.bfloat16)
    oneshot(
        model=model,
        dataset=Dataset.from_dict({"input_ids": drawn["calibration"].tolist()}),
        recipe=GPTQModifier(ignore=["lm_head"], config_groups={"all": scheme}),
        max_seq_length=drawn["calibration"].shape[1],
        num_calibration_samples=len(drawn["calibration"]),
    )
    model.save_pretrained(out, save_compressed=True)
    AutoTokenizer.from_pretrained(original).save_pretrained(out)
again = AutoModelForCausalLM.from_pretrained(
    out, quantization_config=CompressedTensorsConfig(run_compressed=False)
)
plain = AutoModelForCausalLM.from_pretrained(original, dtype=torch.float32)
names = set(plain.state_dict())
plain.load_state_dict(
    {name: tensor.float() for name, tensor in again.state_dict().items() if name in names}
)
with torch.no_grad():
    np.save(f"{out}.logits.npy", plain(torch.tensor(drawn["probe"][None])).logits[0].numpy())
