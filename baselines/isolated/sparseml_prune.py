"""SparseML 1.8 prunes the model of a job file; `python -I sparseml_prune.py job.json` in its
environment.

See `methods.workshop.isolated` for the files that are exchanged. SparseML's `oneshot()` needs a
tokenizer, a dataset of text and a Trainer. So this script makes the calls below it, on token ids
and a model in
memory: `sparseml.core.session.apply` with a recipe's SparseGPTModifier, and for magnitude
`ScheduledModifierManager.apply`, whose MagnitudePruningModifier supports n:m (the newer modifier of
that name does not). In recipes for the first, n:m counts the zeros; for the second, the weights
kept.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

os.environ["NM_DISABLE_ANALYTICS"] = "True"  # else it sends usage data


def main(file: str) -> None:
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the output of the library goes to the log
    threading.Thread(target=die_with_parent, daemon=True).start()
    job = json.loads(Path(file).read_text())
    import torch
    from safetensors.torch import save_file

    torch.set_num_threads(job["threads"])
    torch.manual_seed(job["seed"])
    model = load(job)
    check_logits(model, job)
    recipe = {"sparsegpt": sparsegpt, "magnitude": magnitude}[job["settings"]["method"]](
        model, job, channel
    )
    tensors = named_tensors(model, job["tensors"])
    for target in job["targets"]:
        weight = tensors[target + ".weight"]
        weight.masked_fill_(weight == 0, 0)  # a product with a mask leaves -0.0
    Path(job["pruned"]).mkdir()
    save_file(tensors, Path(job["pruned"]) / "model.safetensors", metadata={"format": "pt"})
    versions = {d.metadata["Name"]: d.version for d in distributions()}
    report = {"versions": dict(sorted(versions.items())), "recipe": recipe}
    Path(job["report"]).write_text(json.dumps(report))


def die_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def load(job: dict[str, Any]) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        job["model"],
        torch_dtype=getattr(torch, job["dtype"]),
        use_safetensors=True,
        local_files_only=True,
    )
    return model.to(job["device"]).eval()


def named_tensors(model: Any, names: list[str]) -> dict[str, Any]:
    """Return the tensors with these names, and all others that share no memory with them."""
    state = {
        name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()
    }
    tensors = {name: state[name] for name in names}
    known = {tensor.data_ptr() for tensor in tensors.values()}
    return tensors | {
        name: tensor for name, tensor in state.items() if tensor.data_ptr() not in known
    }


def check_logits(model: Any, job: dict[str, Any]) -> None:
    """Write this model's logits, and exit if they differ from the parent's."""
    import torch
    from safetensors.torch import load_file, save_file

    probe = load_file(job["probe"])
    reference = probe["logits"]
    with torch.no_grad():
        logits = model(input_ids=probe["tokens"].to(job["device"])).logits[0].float().cpu()
    save_file({"logits": logits.contiguous()}, job["logits"])
    difference = float(
        (logits - reference).square().mean().sqrt()
        / (reference - reference.mean()).square().mean().sqrt()
    )
    if not difference <= job["tolerance"]:
        sys.exit(
            f"the dense model's logits differ by {difference:.2g} (at most {job['tolerance']:g}): "
            "nothing was pruned"
        )


def sparsegpt(model: Any, job: dict[str, Any], channel: Any) -> str:
    import torch
    from safetensors.torch import load_file
    from sparseml.core import session
    from sparseml.core.framework import Framework

    pattern, settings = job["pattern"], job["settings"]
    structure = f"{pattern['m'] - pattern['n']}:{pattern['m']}" if pattern["m"] else "0:0"
    recipe = f"""
prune_stage:
  obcq_modifiers:
    SparseGPTModifier:
      sparsity: {pattern["sparsity"]}
      mask_structure: "{structure}"
      sequential_update: true
      block_size: {settings["block"]}
      dampening_frac: {settings["damping"]}
      targets: {json.dumps(["re:" + regex for regex in settings["blocks"]])}
"""
    tokens = load_file(job["calibration"])["tokens"]
    rows = [
        {"input_ids": row[None], "attention_mask": torch.ones_like(row[None])} for row in tokens
    ]
    model.register_forward_pre_hook(counter(channel, len(rows) * settings["count"]))
    session.apply(
        framework=Framework.pytorch,
        recipe=recipe,
        model=model,
        calib_data=rows,
        start=-1,
        copy_data=False,
    )
    return recipe


def magnitude(model: Any, job: dict[str, Any], channel: Any) -> str:
    from sparseml.pytorch.optim import ScheduledModifierManager

    pattern = job["pattern"]
    names = ["re:" + regex[:-1] + "[.]weight$" for regex in job["settings"]["linears"]]
    recipe = f"""
modifiers:
  - !MagnitudePruningModifier
    init_sparsity: {pattern["sparsity"]}
    final_sparsity: {pattern["sparsity"]}
    start_epoch: 0.0
    end_epoch: 1.0
    update_frequency: 1.0
    params: {json.dumps(names)}
    mask_type: "{f"{pattern['n']}:{pattern['m']}" if pattern["m"] else "unstructured"}"
    leave_enabled: false
"""
    ScheduledModifierManager.from_yaml(recipe).apply(model)
    return recipe


def counter(channel: Any, total: int) -> Callable[..., None]:
    """Return a hook that counts forward passes and reports them."""
    done = 0

    def count(*_: Any) -> None:
        nonlocal done
        done += 1
        print(json.dumps({"done": min(done, total), "total": total}), file=channel, flush=True)

    return count


if __name__ == "__main__":
    main(sys.argv[1])
