"""Round a model to 4 bits with auto-round, without training steps, and save it in GPTQ's format.

Its loader runs a GPTQ folder in float16. The weights that it multiplies by are read from its
linears and put into float32 linears, so that the logits have no rounding of float16.

python auto_round_gptq.py ORIGINAL IDS OUT
"""
# /// script
# dependencies = ["auto-round==0.16.1", "transformers>=5", "torch"]
# ///

import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from auto_round import AutoRound
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoRoundConfig, AutoTokenizer

original, ids, out = sys.argv[1:]
torch.set_num_threads(1)
if not Path(out).exists():
    model = AutoModelForCausalLM.from_pretrained(original, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(original)
    rounding = AutoRound(
        model, tokenizer, bits=4, group_size=32, sym=True, iters=0, disable_opt_rtn=True
    )
    rounding.quantize_and_save(f"{out}.parts", format="auto_gptq")
    (config,) = Path(f"{out}.parts").rglob("config.json")
    shutil.move(config.parent, out)
probe = torch.tensor(np.load(ids)["probe"][None])
again = AutoModelForCausalLM.from_pretrained(out, quantization_config=AutoRoundConfig())
with torch.no_grad():
    np.save(f"{out}.float16.logits.npy", again(probe).logits[0].float().numpy())
    plain = AutoModelForCausalLM.from_pretrained(original, dtype=torch.float32)
    # Embeddings and norms are stored in float32, and the loader rounds them.
    stored = load_file(f"{out}/model.safetensors")
    plain.load_state_dict(
        {n: t.float() for n, t in stored.items() if n in plain.state_dict()}, strict=False
    )
    for name, linear in plain.model.named_modules():
        if isinstance(linear, torch.nn.Linear):
            theirs = again.model.get_submodule(name)
            # The rows of the identity pick the columns of the weight, exactly.
            identity = torch.eye(linear.in_features)
            linear.weight.copy_(
                theirs(identity).T - (theirs.bias[:, None] if theirs.bias is not None else 0)
            )
    np.save(f"{out}.logits.npy", plain(probe).logits[0].numpy())
