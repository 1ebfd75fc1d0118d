"""Codes of rotated weights, of 2 to 4 bits: Gaussian grids, lattices, trellises."""

ENTRIES = {
    "quantizers": {
        "gauss2": "bench.parts.codebooks.gaussian:Gauss2",
        "gauss3": "bench.parts.codebooks.gaussian:Gauss3",
        "gauss4": "bench.parts.codebooks.gaussian:Gauss4",
        "e8": "bench.parts.codebooks.lattice:E8",
        "higgs": "bench.parts.codebooks.higgs:Higgs",
        "tcq2": "bench.parts.codebooks.trellis:Tcq2",
        "tcq3": "bench.parts.codebooks.trellis:Tcq3",
        "tcq4": "bench.parts.codebooks.trellis:Tcq4",
    },
    "codecs": {
        "gauss": "bench.parts.codebooks.gaussian:GaussianCodec",
        "e8": "bench.parts.codebooks.lattice:LatticeCodec",
        "higgs": "bench.parts.codebooks.higgs:HiggsCodec",
        "trellis": "bench.parts.codebooks.trellis:TrellisCodec",
    },
}
NEEDS = ("packed24",)
