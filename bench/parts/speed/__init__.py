"""Time 2:4 against dense, on any device: the measure `speed`, `bench speed`, and engines that run
whole models."""

NEEDS = ("packed24",)
ENTRIES = {
    "commands": {"speed": "bench.parts.speed.command:speed"},
    "measures": {"speed": "bench.parts.speed.measure:Speed"},
    "engines": {
        "native": "bench.parts.speed.engines.ours:Native",
        "torch": "bench.parts.speed.engines.ours:Torch",
        "onnxruntime": "bench.parts.speed.engines.onnx_runtime:OnnxRuntime",
        "llamacpp": "bench.parts.speed.engines.llama_cpp:LlamaCpp",
        "tensorrt": "bench.parts.speed.engines.tensor_rt:TensorRt",
    },
}
