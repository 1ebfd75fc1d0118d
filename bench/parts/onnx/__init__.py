"""ONNX: export of a model as one graph, and the pattern of the weights in any ONNX file. Its
weights are floats: no codec reads or writes quantized ones."""

ENTRIES = {"exports": {"onnx": "bench.parts.onnx.formats:Onnx"}}
