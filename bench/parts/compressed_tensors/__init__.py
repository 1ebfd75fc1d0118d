"""The formats of compressed-tensors, which vLLM and transformers read, and the quantizers of
llm-compressor, which writes them."""

ENTRIES = {
    "quantizers": {
        "llmcompressor-gptq": "bench.parts.compressed_tensors.llm_compressor:LlmCompressorGptq",
        "llmcompressor-nvfp4": "bench.parts.compressed_tensors.llm_compressor:LlmCompressorNvFp4",
        "llmcompressor-mxfp4": "bench.parts.compressed_tensors.llm_compressor:LlmCompressorMxFp4",
        "auto-round": "bench.parts.compressed_tensors.llm_compressor:AutoRound",
    },
    "codecs": {"compressed-tensors": "bench.parts.compressed_tensors.codec:CompressedTensorsCodec"},
    "exports": {"compressed-tensors": "bench.parts.compressed_tensors.formats:CompressedTensors"},
}
