"""Estimates of the memory and disk space of an artifact, from its sizes only: the same on every
machine."""

from __future__ import annotations

import math

from bench.catalog.registry import lookup
from bench.planning.artifact import Artifact
from methods.contract.method import LIBRARY_BYTES

CUDA_BYTES = 3e9
"""Main memory of CUDA's libraries and context, in addition to LIBRARY_BYTES."""
STATE_BYTES = 17.0
"""Bytes of a weight in training: float32 master, gradient, two moments and a flag."""
COMPILED_BYTES = 36.0
"""Bytes of activations per token, hidden width and block that compiled blocks in bfloat16 keep for
the backward pass."""
EAGER_BYTES = {"float32": 85.0, "bfloat16": 58.0}
"""The same without torch.compile, counted from what autograd saves of a LLaMA block."""
LOGITS_BYTES = 32.0
"""Bytes per token and logit: bfloat16 of student and teacher, and seven float32 tensors."""
MAX_LOGITS_BYTES = 11e9
"""Largest size of them on a card of 80 GB, because the loss takes some rows at a time."""
CPU_LOGITS_BYTES = 6e8
"""Largest size of them on a CPU, where the loss takes 256 MiB of one model's logits at a time."""
HEAD_BYTES = 8.0
"""Bytes per weight of the head for its float32 copy and gradient."""
CHECKPOINT_BYTES = 13.0
"""Bytes per weight of a checkpoint: the state of a training without its gradient."""
CHECKPOINTS = 3
"""Largest number of checkpoints on disk: two, and the one that is written."""
COPIES = 4
"""Copies of the calibration activations, if experts are loaded one by one or a block is trained."""
STREAMED_FROM = 0.8
"""Share of the memory limit above which a model is streamed."""
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def estimate_bytes(artifact: Artifact) -> float:
    """Estimate the main memory of one machine.

    A CPU holds the model, the dense model that it is compared with, and the state and a micro-batch
    of a training. A machine with a GPU holds the model once. Each process of a training loads its
    own libraries. Each process of a calibration also loads the model.
    """
    own = artifact.processes // artifact.nodes
    shared = artifact.calibration_ranks
    cuda = CUDA_BYTES if artifact.device != "cpu" else 0.0
    if is_streamed(artifact):
        return shared * (streamed_bytes(artifact) + cuda)
    calibrated = shared * (LIBRARY_BYTES + cuda + model_bytes(artifact))
    if artifact.device == "cpu":
        calibrated += tuning_bytes(artifact)
    if artifact.device != "cpu":
        return max(calibrated, own * (LIBRARY_BYTES + cuda) + model_bytes(artifact))
    state = state_bytes(artifact) / artifact.nodes + own * _gathered_bytes(artifact)
    steps = own * _step_bytes(artifact)
    return max(calibrated, own * LIBRARY_BYTES + 2.0 * model_bytes(artifact) + state + steps)


def estimate_device_bytes(
    artifact: Artifact, processes: int | None = None, memory: float | None = None
) -> float | None:
    """Estimate the memory of each GPU. None: on a CPU.

    A GPU holds the model and the dense model for measures, or its part of a training if that is
    larger. processes: number that share the training. None: as in the artifact. memory: bytes of a
    GPU. One that does not hold a trained model reads it block by block for measures.
    """
    if artifact.device == "cpu":
        return None
    if is_streamed(artifact):
        return streamed_device_bytes(artifact)
    both = 2.0 * model_bytes(artifact)
    if not artifact.training:
        return max(both, model_bytes(artifact) + tuning_bytes(artifact))
    fills = memory is not None and model_bytes(artifact) >= STREAMED_FROM * memory
    measured = streamed_device_bytes(artifact) if fills else both
    return max(measured, training_device_bytes(artifact, processes or artifact.processes))


def training_device_bytes(artifact: Artifact, processes: int) -> float:
    """Estimate the memory of each GPU for a training that processes share, without the measures
    after it."""
    shared = artifact.model_copy(update={"processes": processes})
    divided = (model_bytes(artifact) + state_bytes(artifact)) / processes
    return divided + _gathered_bytes(shared) + _step_bytes(shared)


def tuning_bytes(artifact: Artifact) -> float:
    """Estimate what a tuning adds to the model: the dense model, the weights in float32, and the
    logits of a sequence. 0 without one."""
    if not artifact.calibration or not any(stage.tuning_steps for stage in artifact.stages):
        return 0.0
    parts, tokens = artifact.sizes, artifact.calibration.seqlen
    logits = min(LOGITS_BYTES * tokens * parts.vocabulary, MAX_LOGITS_BYTES)
    return model_bytes(artifact) + ITEM_BYTES["float32"] * parts.parameters + logits


def _step_bytes(artifact: Artifact) -> float:
    """Estimate what each process keeps for the backward pass of a micro-batch: activations, copies
    of the weights in the number format of the products, and logits.

    With recompute these are a float32 input of each block, the activations of one block, and the
    copies of two.
    """
    training, parts = artifact.training, artifact.sizes
    if training is None:
        return 0.0
    sequences = min(training.micro or training.batch, training.batch // artifact.processes)
    tokens = max(1, sequences) * training.seqlen
    states = float(tokens * parts.hidden)
    rate, copied = COMPILED_BYTES, ITEM_BYTES["bfloat16"]
    if artifact.computed_in == "float32":
        rate, copied = EAGER_BYTES["float32"], 0
    elif parts.expert or any(stage.config.get("compile") == "off" for stage in artifact.stages):
        rate = EAGER_BYTES["bfloat16"]
    if any(stage.recomputes for stage in artifact.stages):
        kept = states * (ITEM_BYTES["float32"] * parts.blocks + rate) + 2 * copied * parts.block
    else:
        kept = states * rate * parts.blocks + copied * parts.parameters
    head = HEAD_BYTES * parts.vocabulary * parts.hidden
    most = CPU_LOGITS_BYTES if artifact.device == "cpu" else MAX_LOGITS_BYTES
    return kept + head + min(LOGITS_BYTES * tokens * parts.vocabulary, most)


def with_recompute(artifact: Artifact) -> Artifact:
    """Return an artifact whose trainings recompute activations. A plug-in may lack that setting."""
    stages = []
    for stage in artifact.stages:
        if "training" in stage.needs and not stage.entry.is_plugin:
            stage = stage.model_copy(update={"config": stage.config | {"recompute": True}})
        stages.append(stage)
    return artifact.model_copy(update={"stages": tuple(stages)})


def _gathered_bytes(artifact: Artifact) -> float:
    """Estimate the undivided part of a shared training: two blocks of student and teacher, and the
    teacher's embeddings and head.

    The student is in float32.
    """
    if not artifact.training or artifact.processes == 1:
        return 0.0
    parts, item = artifact.sizes, ITEM_BYTES[artifact.computed_in]
    return parts.outside * item + 2.0 * parts.block * (ITEM_BYTES["float32"] + item)


def estimate_disk_bytes(artifact: Artifact, stages: int) -> float:
    """Estimate the largest size in the cache: the model after each stage, or while the last one
    trains, the checkpoints in place of its model."""
    parameters = float(artifact.sizes.parameters)
    written = parameters * ITEM_BYTES[artifact.dtype]
    if not artifact.training:
        return stages * written
    return (stages - 1) * written + CHECKPOINTS * CHECKPOINT_BYTES * parameters


def is_streamed(artifact: Artifact) -> bool:
    """Return whether every machine streams the model. A machine with little memory also streams
    others, but no training."""
    limit = artifact.max_memory
    needed = artifact.calibration_ranks * model_bytes(artifact)
    return not artifact.training and (
        artifact.stream or (limit is not None and needed >= STREAMED_FROM * 1e9 * limit)
    )


def streamed_bytes(artifact: Artifact) -> float:
    """Estimate the main memory of a streamed model, without the states that measures keep.

    It holds the weights outside the blocks, two blocks, the calibration activations and a method's
    Hessians. For a mixture it holds one block without its experts and two experts instead.
    Activations that exceed `max_memory` are on disk.
    """
    weights, own = _working_bytes(artifact)
    return (
        LIBRARY_BYTES + weights + own + _activation_bytes(artifact, LIBRARY_BYTES + weights + own)
    )


def streamed_device_bytes(artifact: Artifact) -> float:
    """Estimate the GPU memory of a streamed model. Its activations stay in main memory."""
    return sum(_working_bytes(artifact))


def keeps_blocks(artifact: Artifact) -> str:
    """Return the stage that keeps whole blocks of the model and of the dense model in memory, or
    ""."""
    for stage in artifact.stages:
        cost = lookup(stage.kind, stage.name).cost
        if cost and cost.whole_blocks:
            return stage.label
    return ""


def _working_bytes(artifact: Artifact) -> tuple[float, float]:
    """Return the bytes of a streamed model's weights, and of its methods' state for a block."""
    parts = artifact.sizes
    whole, item = bool(keeps_blocks(artifact)), ITEM_BYTES[artifact.computed_in]
    costs = [cost for s in artifact.stages if (cost := lookup(s.kind, s.name).cost)]
    hessians = max((cost.hessians for cost in costs), default=0.0)
    if whole:
        state = max((cost.state for cost in costs), default=0.0)
        return float(item * (parts.outside + 4 * parts.block)), state * parts.block
    # Processes that share a calibration load whole blocks.
    by_expert = artifact.calibration_ranks == 1
    at_once = parts.at_once if by_expert else 2 * parts.block
    own = 4.0 * hessians * (parts.hessians_by_expert if by_expert else parts.hessians)
    return float(item * (parts.outside + at_once)), own


def _activation_bytes(artifact: Artifact, beside: float) -> float:
    calibration = artifact.calibration
    if not calibration:
        return 0.0
    parts = artifact.sizes
    by_expert = parts.expert and calibration.processes == 1
    copies = COPIES if keeps_blocks(artifact) or by_expert else 1
    tokens = math.ceil(calibration.sequences / calibration.processes) * calibration.seqlen
    states = float(copies * tokens * parts.hidden * ITEM_BYTES[artifact.computed_in])
    needed, limit = calibration.processes * (beside + states), artifact.max_memory
    on_disk = limit is not None and needed > 1e9 * limit and not keeps_blocks(artifact)
    return 0.0 if on_disk else states


def model_bytes(artifact: Artifact) -> float:
    return float(artifact.sizes.parameters * ITEM_BYTES[artifact.computed_in])


def state_bytes(artifact: Artifact) -> float:
    """Return the bytes of the state of the artifact's training, 0 without one."""
    return STATE_BYTES * artifact.sizes.parameters if artifact.training else 0.0
