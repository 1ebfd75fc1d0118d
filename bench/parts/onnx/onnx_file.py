"""The linears of an ONNX file: their weights in any layout, and their pattern."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.system.packages import pip_install, require
from bench.verify import WeightCounts, count_layer
from methods.contract.errors import UserError, first_line
from methods.contract.pattern import Pattern
from methods.model.safe_files import find_file

if TYPE_CHECKING:
    from torch import Tensor

SCOPES = "pkg.torch.onnx.name_scopes"
"""Property in which torch's exporter keeps the path of a node's modules."""
SUFFIX = ".weight"
MAX_INLINE_BYTES = 2**31 - 2**24
"""Largest size of the weights in the file itself. Protobuf accepts 2 GB, graph included."""
FLOATS = ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE")


class Linear(NamedTuple):
    """A product with a constant matrix."""

    name: str
    initializer: str
    shape: tuple[int, int]
    """Output size and input size."""
    transposed: bool
    """True if the matrix is stored [in, out]."""
    is_head: bool
    """True if its result is the logits. The head is never pruned."""


class OnnxFile:
    """An ONNX file from anywhere. Protobuf and raw numbers run no code."""

    def __init__(self, path: Path) -> None:
        """Raise UserError if the file cannot be read as ONNX, or its file of weights is not in its
        folder."""
        require("onnx", what="ONNX", how=pip_install("onnx"))
        import onnx

        self.path = path
        if find_file(path.parent, path.name, None) is None:
            raise UserError(f"no file {str(path)!r}: check the path")
        try:
            self.model = onnx.load(str(path), load_external_data=False)
            onnx.checker.check_model(str(path))
        except MemoryError:
            raise
        except Exception as fault:  # noqa: BLE001  the library's faults have no common class, and a file may be anything
            why = first_line(fault)
            raise UserError(f"{path} cannot be read as ONNX: {why}") from None
        self._tensors = {tensor.name: tensor for tensor in self.model.graph.initializer}
        self.linears = list(self._find())

    def targets(self, include: Iterable[str] = ("*",), exclude: Iterable[str] = ()) -> list[Linear]:
        """Return the linears that match globs, except the head. Raise UserError if no linear
        matches."""
        include, exclude = tuple(include), tuple(exclude)
        chosen = []
        for linear in self.linears:
            is_included = any(fnmatchcase(linear.name, glob) for glob in include)
            is_excluded = any(fnmatchcase(linear.name, glob) for glob in exclude)
            if is_included and not is_excluded and not linear.is_head:
                chosen.append(linear)
        if not chosen:
            names = [linear.name for linear in self.linears if not linear.is_head]
            if names:
                raise UserError(
                    f"no linear of {self.path} matches include {list(include)} and exclude "
                    f"{list(exclude)}; names look like {names[:1]}"
                )
            raise UserError(
                f"{self.path} has no product with a constant matrix of floats, so there is no "
                "pattern to check"
            )
        return chosen

    def count(
        self, pattern: Pattern, include: Iterable[str] = ("*",), exclude: Iterable[str] = ()
    ) -> WeightCounts:
        """Count groups along the input dimension of every target. Raise UserError if a width is no
        whole number of them."""
        counts = WeightCounts(pattern)
        for linear in self.targets(include, exclude):
            if not pattern.fits(linear.shape[1]):
                raise UserError(
                    f"pattern {pattern} needs input widths that are multiples of {pattern.m}, and "
                    f"{linear.name} has {linear.shape[1]}: use another pattern, or leave it out "
                    f"with --exclude '{linear.name}'"
                )
            count_layer(counts, linear.name, self.weight(linear))
        return counts

    def weight(self, linear: Linear) -> Tensor:
        """Return the matrix [out, in]. Raise UserError if its file of weights is damaged."""
        import torch
        from onnx import checker, external_data_helper, numpy_helper

        tensor = self._tensors[linear.initializer]
        try:
            if external_data_helper.uses_external_data(tensor):
                place = next((e.value for e in tensor.external_data if e.key == "location"), "")
                if find_file(self.path.parent, place, None) is None:
                    raise UserError(
                        f"{self.path} names a file of weights that is not there: {place!r}"
                    )
                # It takes the weights, so that only one matrix is in memory at a time.
                tensor = copy.deepcopy(tensor)
            array = numpy_helper.to_array(tensor, str(self.path.parent))
        except (OSError, ValueError, checker.ValidationError) as fault:
            raise UserError(
                f"{self.path} has damaged weights of {linear.name}: {first_line(fault)}"
            ) from None
        # numpy has no bfloat16.
        bits = torch.from_numpy(array.view(f"int{8 * array.itemsize}").copy())
        matrix = bits.view(getattr(torch, array.dtype.name))
        return matrix.T.contiguous() if linear.transposed else matrix

    def _find(self) -> Iterator[Linear]:
        import onnx

        heads = self._heads()
        sources = self._constant_matrices()
        for node in self.model.graph.node:
            if _kind(node) not in ("MatMul", "Gemm"):
                continue
            flags = {a.name: a.i for a in node.attribute if a.type == onnx.AttributeProto.INT}
            for position in (1, 0):
                source = sources.get(node.input[position])
                if source is None:
                    continue
                initializer, is_turned = source
                # The right matrix is [in, out], the left one [out, in], each turned by a Transpose
                # and by its flag.
                transposed = (position == 1) != is_turned
                flag = "transB" if position else "transA"
                transposed = transposed != bool(flags.get(flag))
                rows, columns = self._tensors[initializer].dims
                shape = (columns, rows) if transposed else (rows, columns)
                name = initializer.removesuffix(SUFFIX)
                yield Linear(name, initializer, shape, transposed, node.output[0] in heads)
                break

    def _heads(self) -> set[str]:
        """Return the outputs of the last products before the logits. Only caps and scales may
        follow them."""
        makers = {name: node for node in self.model.graph.node for name in node.output}
        waiting, seen, heads = (
            [value.name for value in self.model.graph.output[:1]],
            set[str](),
            set[str](),
        )
        while waiting:
            name = waiting.pop()
            node = makers.get(name)
            if node is None or name in seen:
                continue
            seen.add(name)
            if _kind(node) in ("MatMul", "Gemm"):
                heads.add(name)
            else:
                waiting += node.input
        return heads

    def _constant_matrices(self) -> dict[str, tuple[str, bool]]:
        """Return the initializer behind each value, and whether a Transpose follows it."""
        import onnx

        kinds = [onnx.TensorProto.DataType.Value(kind) for kind in FLOATS]
        found = {
            name: (name, False)
            for name, t in self._tensors.items()
            if len(t.dims) == 2 and t.data_type in kinds
        }
        for node in self.model.graph.node:
            if _kind(node) == "Transpose" and node.input[0] in found:
                name, is_turned = found[node.input[0]]
                order = next((list(a.ints) for a in node.attribute if a.name == "perm"), [1, 0])
                found[node.output[0]] = (name, is_turned != (order == [1, 0]))
        return found


def _kind(node: Any) -> str:
    """Return the operator of a node, or "" for one outside the standard, which may compute
    anything."""
    kind: str = node.op_type
    return kind if node.domain in ("", "ai.onnx") and node.input else ""


def replace_weights(path: Path, out: Path, weight_of: Callable[[str], Tensor]) -> None:
    """Write the same graph with other weights in its linears. The head keeps its weights.

    weight_of: function from a linear's name to a matrix [out, in].
    """
    import onnx
    import torch

    linears = {linear.initializer: linear for linear in OnnxFile(path).targets()}
    model = onnx.load(str(path))
    for tensor in model.graph.initializer:
        linear = linears.get(tensor.name)
        if linear:
            dtype = getattr(torch, onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).name)
            weight = weight_of(linear.name).to(dtype)
            if linear.transposed:
                weight = weight.T
            matrix = weight.contiguous()
            content = matrix.view(torch.uint8).numpy().tobytes()
            tensor.CopyFrom(
                onnx.helper.make_tensor(
                    tensor.name, tensor.data_type, matrix.shape, content, raw=True
                )
            )
    is_large = sum(len(tensor.raw_data) for tensor in model.graph.initializer) > MAX_INLINE_BYTES
    onnx.save(model, str(out), save_as_external_data=is_large, location=f"{out.name}.data")


def name_weights(model: Any, prefix: str) -> None:
    """Give each weight that torch's exporter transposed the name of its module, in place.

    model: an onnx_ir.Model. prefix: start of module names that is removed.
    """
    graph = model.graph
    for node in graph:
        scopes = node.metadata_props.get(SCOPES)
        if not scopes or node.op_type not in ("MatMul", "Gemm"):
            continue
        for value in node.inputs:
            if value is not None and value.is_initializer() and len(value.const_value.shape) == 2:
                _rename(graph, value, ast.literal_eval(scopes)[-2].removeprefix(prefix) + SUFFIX)
    for value in list(graph.initializers.values()):
        _rename(graph, value, value.name.removeprefix(prefix))


def _rename(graph: Any, value: Any, name: str) -> None:
    """Rename a value unless the name is taken: a head may share its name with the embedding."""
    if name not in graph.initializers:
        del graph.initializers[value.name]
        value.name = name
        graph.initializers[name] = value
