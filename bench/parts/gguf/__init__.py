"""GGUF files and the types of llama.cpp: reader, export, model folders, K-quants and i-quants as
quantizers, and their codec."""

ENTRIES = {
    "quantizers": {
        "q2_k": "bench.parts.gguf.k_quants:Q2K",
        "q3_k": "bench.parts.gguf.k_quants:Q3K",
        "q4_k": "bench.parts.gguf.k_quants:Q4K",
        "q5_k": "bench.parts.gguf.k_quants:Q5K",
        "q6_k": "bench.parts.gguf.k_quants:Q6K",
        "iq2_xxs": "bench.parts.gguf.k_quants:Iq2Xxs",
        "iq2_xs": "bench.parts.gguf.k_quants:Iq2Xs",
        "iq3_xxs": "bench.parts.gguf.k_quants:Iq3Xxs",
        "iq3_s": "bench.parts.gguf.k_quants:Iq3S",
        "iq4_xs": "bench.parts.gguf.k_quants:Iq4Xs",
        "iq4_nl": "bench.parts.gguf.k_quants:Iq4Nl",
    },
    "embeddings": {"q6_k": "bench.parts.gguf.gguf_embeddings:q6_k"},
    "codecs": {"ggml": "bench.parts.gguf.k_quants:GgmlCodec"},
    "exports": {"gguf": "bench.parts.gguf.formats:Gguf"},
    "services": {"gguf_folder": "bench.parts.gguf.gguf_folder:write"},
    "readers": {"gguf": "bench.parts.gguf.formats:GgufReader"},
}
