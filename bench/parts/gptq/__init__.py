"""The layouts of GPTQ (GPTQModel, AutoGPTQ, auto-round) and AWQ (AutoAWQ), which transformers and
vLLM read."""

ENTRIES = {
    "codecs": {
        "gptq": "bench.parts.gptq.codec:GptqCodec",
        "awq": "bench.parts.gptq.codec:AwqCodec",
    },
    "exports": {"gptq": "bench.parts.gptq.formats:Gptq", "awq": "bench.parts.gptq.formats:Awq"},
}
