"""Quantize a model to 4 bits with auto-round, and save it in GPTQ's format.

Its loader runs a GPTQ folder in float16. The scales are float16, so the weights that it multiplies by are those of the
folder. Here they are read from its linears and put into float32 linears, so that the logits have no rounding of float16.

python auto_round_gptq.py ORIGINAL IDS OUT
"""
# /// script
# dependencies = ["auto-round==0.16.1", "transformers>=5", "torch"]
# ///

import glob
import shutil
import sys

import numpy as np
import torch
from auto_round import AutoRound
from transformers import AutoModelForCausalLM, AutoTokenizer

original, ids, out = sys.argv[1:]
drawn = np.load(ids)
torch.set_num_threads(1)
model = AutoModelForCausalLM.from_pretrained(original, dtype=torch.bfloat16)
calibration = [torch.tensor(row[None]) for row in drawn["calibration"]]
rounding = AutoRound(
    model, AutoTokenizer.from_pretrained(original), bits=4, group_size=64, sym=True, dataset=calibration,
    nsamples=len(calibration), seqlen=calibration[0].shape[1], iters=20, batch_size=4, low_gpu_mem_usage=True,
)  # fmt: skip
rounding.quantize_and_save(f"{out}.parts", format="auto_gptq")
(folder,) = [p.rpartition("/")[0] for p in glob.glob(f"{out}.parts/**/config.json", recursive=True)]
shutil.move(folder, out)
again = AutoModelForCausalLM.from_pretrained(out)
probe = torch.tensor(drawn["probe"][None])
with torch.no_grad():
    np.save(f"{out}.float16.logits.npy", again(probe).logits[0].float().numpy())
    plain = AutoModelForCausalLM.from_pretrained(original, dtype=torch.float32)
    plain.load_state_dict(
        {n: t.float() for n, t in again.state_dict().items() if n in plain.state_dict()}, strict=False
    )
    for name, linear in plain.model.named_modules():
        if isinstance(linear, torch.nn.Linear):
            theirs = again.model.get_submodule(name)
            # The rows of the identity pick the columns of the weight, exactly.
            identity = torch.eye(linear.in_features, dtype=torch.float16)
            linear.weight.copy_(theirs(identity).T - (theirs.bias[:, None] if theirs.bias is not None else 0))
    np.save(f"{out}.logits.npy", plain(probe).logits[0].numpy())
