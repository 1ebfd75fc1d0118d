"""packed24: 2:4 weights as kept values and bitmasks. The codec, the folder that `bench export`
writes and readers open, and the kernels that multiply by packed weights."""

ENTRIES = {
    "codecs": {"packed24": "bench.parts.packed24.codec:Packed24Codec"},
    "exports": {"packed24": "bench.parts.packed24.formats:Packed24Format"},
    "readers": {"packed24": "bench.parts.packed24.formats:Packed24Reader"},
}
MANIFEST = "packed24.json"
"""File that makes a folder packed24."""
