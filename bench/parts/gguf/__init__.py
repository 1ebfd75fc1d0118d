"""GGUF files and the types of llama.cpp: reader, export, K-quants as quantizers, and their
codec."""

ENTRIES = {
    "quantizers": {
        "q2_k": "bench.parts.gguf.k_quants:Q2K",
        "q3_k": "bench.parts.gguf.k_quants:Q3K",
        "q4_k": "bench.parts.gguf.k_quants:Q4K",
        "q5_k": "bench.parts.gguf.k_quants:Q5K",
        "q6_k": "bench.parts.gguf.k_quants:Q6K",
    },
    "embeddings": {"q6_k": "bench.parts.gguf.embeddings:q6_k"},
    "codecs": {"ggml": "bench.parts.gguf.k_quants:GgmlCodec"},
    "exports": {"gguf": "bench.parts.gguf.formats:Gguf"},
    "readers": {"gguf": "bench.parts.gguf.formats:GgufReader"},
}
