"""Multiply-accumulates of a model package per LR pixel, counted on its ONNX graphs: `python -m fastvsr_models.macs DIR`."""

import sys
import tomllib
from pathlib import Path

import numpy as np
import onnx


def grids(model, height, width):
    """Shape of every tensor, by onnx's own shape inference, for a frame of height x width."""
    sizes = {"T": 1, "H": height, "W": width, "h": height // 4, "w": width // 4}
    for value in model.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = sizes[dim.dim_param]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    values = [*inferred.value_info, *inferred.output, *inferred.input]
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
    return shapes | {t.name: list(t.dims) for t in inferred.initializer}


def count(path, height=64, width=64):
    """MACs per LR pixel of one graph, by layer: [(name, MACs)], convolutions only (nothing else multiplies in earnest)."""
    model = onnx.load(path)
    shapes = grids(model, height, width)
    layers = []
    for node in model.graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            weight = shapes[node.input[1]]
            grid = shapes[node.output[0] if node.op_type == "Conv" else node.input[0]][2:]
            layers.append((node.name, np.prod(weight) * np.prod(grid) / (height * width)))
    return layers


def count_package(folder):
    """kMAC per LR pixel by stage."""
    stages = tomllib.loads(Path(folder, "model.toml").read_text())["stages"]
    return {name: sum(macs for _, macs in count(Path(folder, stage["file"]))) / 1000 for name, stage in stages.items()}


if __name__ == "__main__":
    for folder in sys.argv[1:]:
        kmacs = count_package(folder)
        total = sum(kmacs.values())
        print(folder, "  ".join(f"{name} {value:.1f}" for name, value in kmacs.items()), f" total {total:.1f} kMAC per LR pixel")
