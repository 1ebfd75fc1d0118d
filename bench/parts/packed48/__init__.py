"""packed48: pairs:4:8 weights as the kept pairs and 2-bit indices of pairs. The codec, and the
folder that `bench export` writes. `folder:path=` reads it as any folder of stored weights."""

ENTRIES = {
    "codecs": {"packed48": "bench.parts.packed48.codec:Packed48Codec"},
    "exports": {"packed48": "bench.parts.packed48.formats:Packed48Format"},
}
