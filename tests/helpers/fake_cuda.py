"""Stand-ins for CUDA operators that check how they are called."""

import torch

from methods.contract.pattern import Pattern

KINDS = {
    "int": int,
    "bool": bool,
    "Tensor": torch.Tensor,
    "Optional[Tensor]": torch.Tensor | None,
    "Optional[int]": torch.dtype | None,  # a schema's word for a dtype
}


def bind(name, args, kwargs):
    """The arguments by name, as the operator's own schema has them."""
    known = {a.name: a for a in getattr(torch.ops.aten, name).default._schema.arguments}
    assert len(args) <= len(known) and set(kwargs) <= set(known)
    given = dict(zip(known, args, strict=False))
    assert not set(given) & set(kwargs)
    given |= kwargs
    assert {n for n, a in known.items() if not a.has_default_value()} <= set(given)
    for key, value in given.items():
        assert isinstance(value, KINDS[str(known[key].type)]), key
    return given


class Sparse:
    """torch's cuSPARSELt operators, and a clock by which the plan (4, 2, 1) is fastest."""

    def __init__(self, monkeypatch, folder, wrong=None):
        self.searches, self.calls, self.wrong, self.device = [], [], wrong, "a card"
        monkeypatch.setattr(torch, "_cslt_compress", self.compress)
        monkeypatch.setattr(torch, "_cslt_sparse_mm", self.mm)
        monkeypatch.setattr(torch._C, "_cusparselt", self, raising=False)
        monkeypatch.setattr("bench.parts.packed24.linear24.CudaClock", lambda: self)
        monkeypatch.setattr(
            "bench.parts.packed24.cusparselt.library_versions", lambda: [self.device]
        )
        monkeypatch.setenv("CAST_BENCH_CACHE", str(folder))

    def compress(self, *args, **kwargs):
        weight = bind("_cslt_compress", args, kwargs)["input"]
        assert weight.is_contiguous() and Pattern(2, 4).violations(weight.float()) == 0
        return weight.clone()

    def mm(self, *args, **kwargs):
        given = bind("_cslt_sparse_mm", args, kwargs)
        self.calls.append(given)
        x, bias = given["dense_B"], given.get("bias")
        assert x.shape[0] == given["compressed_A"].shape[1] and x.shape[1] % 8 == 0
        assert x.t().is_contiguous()  # as torch has it: the transpose of whole rows
        if given["alg_id"] == 6:
            raise RuntimeError("operation not supported")
        wide = torch.int32 if x.dtype == torch.int8 else torch.float32
        y = given["compressed_A"].to(wide) @ x.to(wide) + (0 if bias is None else bias[:, None])
        y = y + 1 if given["alg_id"] == self.wrong else y
        return (y.T if given["transpose_result"] else y).to(given["out_dtype"] or x.dtype)

    def mm_search(self, compressed, dense, bias, alpha, out_dtype, transpose):
        """Not held against a schema: a CPU build has none."""
        assert alpha is None and transpose is True
        self.searches.append(tuple(dense.shape))
        return 4, 2, 1, 7

    def measure(self, work, count):
        for _ in range(count):
            work()
        plan = tuple(self.calls[-1][name] for name in ("alg_id", "split_k", "split_k_mode"))
        return [1.0 if plan == (4, 2, 1) else 2.0] * count
