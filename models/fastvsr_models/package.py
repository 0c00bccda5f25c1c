"""Model packages as data: PyTorch modules -> one ONNX graph per stage and a model.toml. What a package is: ../README.md.

Whatever the networks, the graphs come out the same way: opset 17, free T, H and W, constants
folded, weights stored in half precision, external data files where they are large.
"""

import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxscript.optimizer
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn
from torch.export import Dim

OPSET = 17
VERSION = "0.1.0"

# What each stage makes; the free axes of every tensor.
OUTPUT = {"encoder": "latent", "unet": "denoised", "decoder": "frames_hr"}
AXES = {
    "frames": {0: "T", 1: "H", 2: "W"},
    "latent": {0: "T", 2: "h", 3: "w"},
    "denoised": {0: "T", 2: "h", 3: "w"},
    "frames_hr": {0: "T", 1: "sH", 2: "sW"},
}


@dataclass(frozen=True)
class Stage:
    """One graph: `module` takes the tensors named in `takes` and returns its output.

    `halo` is how far it sees in LR pixels; None where every pixel sees the whole frame.
    """

    module: nn.Module
    takes: tuple[str, ...]
    halo: int | None = None


def to_nchw(frames):
    """uint8 [T, H, W, 3] -> float [T, 3, H, W], still in 8-bit levels."""
    return frames.permute(0, 3, 1, 2).float()


def to_frames(levels):
    """Float [T, 3, H, W] in 8-bit levels, 0.5 added for rounding -> uint8 [T, H, W, 3]."""
    return levels.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def store_half(model):
    """Keep float initializers as float16 and cast them once: runtimes fold the cast when they load the graph."""
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < 16:
            continue
        name, single = tensor.name, numpy_helper.to_array(tensor)
        if np.abs(single).max() > np.finfo(np.float16).max:
            continue
        tensor.CopyFrom(numpy_helper.from_array(single.astype(np.float16), name + "_half"))
        casts.append(helper.make_node("Cast", [name + "_half"], [name], to=TensorProto.FLOAT))
    for cast in reversed(casts):
        model.graph.node.insert(0, cast)


def tidy(graph):
    """Fold what is computed from whole numbers alone (the widths of every Pad), and drop what nothing reads any more."""
    known = {t.name: numpy_helper.to_array(t) for t in graph.initializer if t.data_type == TensorProto.INT64}
    for node in graph.node:
        if node.input and all(name in known for name in node.input):
            values = ReferenceEvaluator(node).run(None, {name: known[name] for name in node.input})
            for name, value in zip(node.output, values, strict=True):
                if np.asarray(value).dtype == np.int64:
                    known[name] = value
                    graph.initializer.append(numpy_helper.from_array(value, name))
    folded = {tensor.name for tensor in graph.initializer}
    for node in [node for node in graph.node if set(node.output) <= folded]:
        graph.node.remove(node)
    while True:
        read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
        dead = [node for node in graph.node if not read.intersection(node.output)]
        if not dead:
            break
        for node in dead:
            graph.node.remove(node)
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)
    del graph.value_info[:]


def export_graph(module, inputs, output, path, half=True, external=False, dynamo=False):
    """Write one graph. `inputs` are examples by name.

    With `external` the weights go into PATH.data, as they must where they exceed the 2 GB of a protocol buffer. `dynamo` is
    PyTorch's newer exporter: slower, in opset 18, and right where the older one takes a size of the example for a constant.
    """
    axes = {name: AXES[name] for name in (*inputs, output)}
    free = {"dynamic_axes": axes, "opset_version": OPSET, "dynamo": False}
    if dynamo:
        shapes = tuple(dict.fromkeys(axes[name], Dim.DYNAMIC) for name in inputs)
        free = {"dynamic_shapes": shapes, "opset_version": OPSET + 1, "dynamo": True, "external_data": False, "verbose": False}
    with tempfile.TemporaryDirectory() as folder:  # a large graph becomes hundreds of files at first
        torch.onnx.export(
            module,
            tuple(inputs.values()),
            f"{folder}/graph.onnx",
            input_names=list(inputs),
            output_names=[output],
            **free,
        )
        model = onnxscript.optimizer.optimize(onnx.load(f"{folder}/graph.onnx"))
    tidy(model.graph)
    if half:
        store_half(model)
    model.ir_version = min(model.ir_version, 8)
    if external:
        data = path.name + ".data"
        path.with_name(data).unlink(missing_ok=True)
        onnx.save(model, path, save_as_external_data=True, location=data)
        path.with_name(data).chmod(path.stat().st_mode)  # onnx keeps it for its owner
    else:
        onnx.save(model, path)
    onnx.checker.check_model(path, full_check=True)


def export_stage(kind, stage, tensors, path, half=True, external=False, dynamo=False):
    """Write the graph of a stage. `tensors`: examples of what it takes, by name; what it makes is added."""
    inputs = {name: tensors[name] for name in stage.takes}
    with torch.no_grad():
        tensors[OUTPUT[kind]] = stage.module(*inputs.values())
    export_graph(stage.module, inputs, OUTPUT[kind], path, half, external, dynamo)


def write_package(folder, about, geometry, window, stages, half=True, external=False, dynamo=False, example=(32, 48)):
    """Write a package into `folder`: STAGE.onnx for every stage, and model.toml.

    `about`: name, license, description. `geometry`: as in the manifest. `window`: frames at once, at most. `stages`: by kind, in
    running order. `example`: height and width of the frame that the graphs are traced with.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # An example of one frame would tell the newer exporter that there is never more than one.
    tensors, tables = {"frames": torch.zeros(2 if dynamo else 1, *example, 3, dtype=torch.uint8)}, []
    for kind, stage in stages.items():
        path = folder / f"{kind}.onnx"
        export_stage(kind, stage, tensors, path, half, external, dynamo)
        halo = {} if stage.halo is None else {"halo": stage.halo}
        tables.append((f"[stages.{kind}]", {"file": path.name, **halo, "sha256": sha256(path)}))
        if external:
            data = path.with_name(path.name + ".data")
            tables.append((f"[[stages.{kind}.data]]", {"file": data.name, "sha256": sha256(data)}))
    time = {"window": window, "minimum": 1, "maximum": window, "multiple": 1, "first-extra": 0, "look-back": 0, "look-ahead": 0}
    identity = {"format": 1, "name": about["name"], "version": VERSION}
    identity |= {"license": about["license"], "description": about["description"]}
    tables = [(None, identity), ("[geometry]", geometry), ("[time]", time), *tables]
    (folder / "model.toml").write_text("\n".join(table(*t) for t in tables))


def table(header, values):
    """One table of a TOML file."""
    lines = [header] if header else []
    lines += [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def sha256(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
