"""Results folders for tests of reports, some of them under names that would like to be code."""

from pathlib import Path

from bench.comparing.result_arguments import read
from bench.inputs.tasks import TASK_SETS
from helpers import fake_records

ROOT = Path(__file__).parents[2]
WANDA7 = TASK_SETS["wanda7"]
IMAGE = "<img src=x onerror=alert(1)>"
FORMULA = "=cmd|'/C calc'!A0"
CLOSING = "</script><script>alert(2)</script>"


def whole_page(folders, papers=None):
    """Render on one page what a leaderboard has on a page for each model."""
    from bench.parts.leaderboard import board_files, html  # not every test has the part

    sections = board_files.make_sections([read(one) for one in folders], papers)
    return html.render_page(sections, board_files._draw(sections))


def folder(root):
    """Write dense, wanda over three seeds, sparsegpt over two, a failure, and an int8 row."""
    fake_records.perplexity(root, method="dense", noise=9)
    for seed in (0, 1, 2):
        fake_records.perplexity(root, 0.20 + seed / 100, method="wanda", seed=seed, noise=seed + 1)
    for seed in (0, 1):
        about = {"method": "sparsegpt", "seed": seed, "noise": seed + 11}
        fake_records.perplexity(root, 0.10 + seed / 100, **about)
    fake_records.perplexity(root, 0.20, method="twin", seed=0, noise=1)
    for method, lost in (("dense", 0), ("wanda", 150), ("sparsegpt", 160)):
        fake_records.accuracy(root, lost, method=method, seed=None if method == "dense" else 0)
    fake_records.failed(root, "CUDA ran out of memory at block 3", method="magnitude")
    about = {"method": "wanda", "protocol": "wiki-mini@64", "identity": {"quantizer": "int8"}}
    fake_records.perplexity(root, 0.12, seed=0, noise=5, **about)
    for method, megabytes in (("wanda", 2.0), ("sparsegpt", 2.0), ("twin", 3.0)):
        about = {"method": method, "measure": "size", "unit": "B"}
        for seed in {"wanda": (0, 1, 2), "sparsegpt": (0, 1), "twin": (0,)}[method]:
            beside = {"parameters": 1e6}  # so that this model is the largest, and comes first
            about |= {"seed": seed, "beside": beside}
            fake_records.counted(root, "bytes_packed", megabytes * 1e6, **about)
    for method, bits in (("dense", 32.0), ("magnitude", 17.0)):  # counted layer by layer
        layers = [fake_records.Item("layer", "layer", bits, 1.0)]
        beside = {"parameters": 1e6, "bytes_packed": bits / 8 * 1e6}
        about = {"method": method, "items": layers, "beside": beside}
        fake_records.counted(root, "bits_per_weight", bits, **about)
    return root


def hostile(root):
    """Rows whose names would like to be code."""
    methods = (CLOSING, "@SUM(1)", "{{ 7 * 7 }}", "**x**|y`z`", "\\input{x}% $a_b^c~#&\\", "日本 é")
    for model in (IMAGE, FORMULA):
        fake_records.perplexity(root, method="dense", identity={"model": model})
        for i, method in enumerate(methods):
            about = {"method": method, "identity": {"model": model}}
            fake_records.perplexity(root, 0.1 * i, noise=i, **about)
            about |= {"measure": "size", "unit": "B", "beside": {"parameters": 1e5}}
            fake_records.counted(root, "bytes_packed", 1e6 + i, **about)
        fake_records.failed(root, f"{CLOSING} in a reason", method=IMAGE, identity={"model": model})
    return root


PUBLISHED = """model,method,pattern,perplexity,protocol,zero_shot_mean,zero_shot_tasks,source,note
LLaMA2-7B,dense,dense,5.12,wikitext2@4096,57.16,maskllm7,"MaskLLM, table 1",
LLaMA2-7B,wanda,2:4,11.00,wikitext2@4096,45.98,maskllm7,"MaskLLM, table 1",
LLaMA2-7B,wanda,2:4,12.16,wikitext2@2048,,,PermLLM,calibrated on C4
"""


def published(root, text=PUBLISHED):
    root.mkdir(parents=True, exist_ok=True)
    (root / "papers.csv").write_text(text)
    return root


def compressed(root):
    """Write rows to pick from. small and good do not differ. Only good was timed."""
    rows = (
        # method, pattern, quantizer, loss, noise, bits, questions lost of 1000, tokens
        ("dense", "dense", "none", 0.0, 1, 16.0, 0, 0),
        ("dense", "dense", "int8", 0.01, 2, 8.1, 25, 0),
        ("good", "2:4", "none", 0.1, 3, 9.0, 10, 5000),
        ("small", "2:4", "int4", 0.1001, 4, 3.2, 15, 20_000),
        ("poor", "2:4", "none", 0.3, 5, 9.0, 80, 16_000),
        ("unsized", "2:4", "none", 0.5, 6, None, 90, None),
        ("broken", "2:4", "none", 0.02, 7, 16.0, 1, 0),
    )
    for method, pattern, quantizer, loss, noise, bits, lost, tokens in rows:
        seed = None if method == "dense" else 0
        identity = {"pattern": pattern, "quantizer": quantizer}
        about = {"method": method, "seed": seed, "identity": identity}
        fake_records.perplexity(root, loss, spread=0.02, noise=noise, **about)
        if bits is not None:
            beside = {"bytes_packed": bits * 1e6, "parameters": 8e6}
            size = {"measure": "size", "beside": beside} | about
            fake_records.counted(root, "bits_per_weight", bits, **size)
        for task in WANDA7:
            fake_records.accuracy(root, lost, protocol=f"{task}@1.0x1000", **about)
        if tokens is not None:
            cost = {"build_s": 1.5, "calibration_tokens": tokens, "training_tokens": 0}
            broken = 5.0 if method == "broken" else 0.0
            fake_records.counted(root, "violated_groups", broken, cost=cost, **about)
    ratios = [{"speedup": 1.4 + 0.01 * i} for i in range(8)]
    items = [fake_records.Item(str(i), str(i), 1.0, 1.0, more) for i, more in enumerate(ratios)]
    about = {"measure": "speed", "protocol": "prefill@512", "method": "good", "seed": 0}
    about |= {"items": items, "beside": {"tokens_per_s": 1.0}}
    fake_records.counted(root, "speedup", 1.435, better="higher", **about)
    return root
