"""Multiply-accumulates of a model package per LR pixel, counted on its ONNX graphs: `python -m fastvsr_models.macs DIR`."""

import sys
import tomllib
from pathlib import Path

import numpy as np
import onnx


def grids(model, known):
    """Shape of every tensor, by onnx's own shape inference; `known`: shapes of the inputs."""
    for value in model.graph.input:
        for dim, side in zip(value.type.tensor_type.shape.dim, known[value.name], strict=True):
            dim.dim_value = side
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    values = [*inferred.value_info, *inferred.output, *inferred.input]
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
    return shapes | {t.name: list(t.dims) for t in inferred.initializer}


def count(model, shapes):
    """MACs of one graph, by layer: [(name, MACs)], convolutions only (nothing else multiplies in earnest)."""
    layers = []
    for node in model.graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            weight = shapes[node.input[1]]
            grid = shapes[node.output[0] if node.op_type == "Conv" else node.input[0]][2:]
            layers.append((node.name, int(np.prod(weight) * np.prod(grid))))
    return layers


def count_package(folder, height=64, width=64):
    """kMAC per LR pixel by stage, for frames of that size: every stage gets what the one before it makes."""
    stages = tomllib.loads(Path(folder, "model.toml").read_text())["stages"]
    tensors, kmacs = {"frames": [1, height, width, 3]}, {}
    for name, stage in stages.items():
        for state in stage.get("state", []):
            tensors[state["input"]] = [1, height // state["stride"], width // state["stride"], state["channels"]]
        model = onnx.load(Path(folder, stage["file"]))
        shapes = grids(model, tensors)
        tensors |= {output.name: shapes[output.name] for output in model.graph.output}
        kmacs[name] = sum(macs for _, macs in count(model, shapes)) / (1000 * height * width)
    return kmacs


if __name__ == "__main__":
    for folder in sys.argv[1:]:
        kmacs = count_package(folder)
        total = sum(kmacs.values())
        print(folder, "  ".join(f"{name} {value:.1f}" for name, value in kmacs.items()), f" total {total:.1f} kMAC per LR pixel")
