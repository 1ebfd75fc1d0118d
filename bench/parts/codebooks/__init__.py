"""Codes of 2 to 4 bits: trellises and grids of rotated weights, integers with searched scales, and
tables of values."""

ENTRIES = {
    "quantizers": {
        "higgs": "bench.parts.codebooks.higgs:Higgs",
        "tcq2": "bench.parts.codebooks.trellis:Tcq2",
        "tcq3": "bench.parts.codebooks.trellis:Tcq3",
        "tcq4": "bench.parts.codebooks.trellis:Tcq4",
        "int2-searched": "bench.parts.codebooks.searched:Int2Searched",
        "int3-searched": "bench.parts.codebooks.searched:Int3Searched",
        "int4-searched": "bench.parts.codebooks.searched:Int4Searched",
        "nvfp4-46": "bench.parts.codebooks.searched:NvFp4FourOverSix",
        "lut3": "bench.parts.codebooks.lut:Lut3",
        "lut4": "bench.parts.codebooks.lut:Lut4",
    },
    "embeddings": {
        "tcq3": "bench.parts.codebooks.embeddings:tcq3",
        "tcq4": "bench.parts.codebooks.embeddings:tcq4",
    },
    "codecs": {
        "higgs": "bench.parts.codebooks.higgs:HiggsCodec",
        "trellis": "bench.parts.codebooks.trellis:TrellisCodec",
        "lut": "bench.parts.codebooks.lut:TableCodec",
    },
}
NEEDS = ("packed24",)
