"""Export: a trained network -> a model package (model.toml and three ONNX graphs) that the fastvsr element runs.

`python -m fastvsr_models.export --checkpoint FILE --out models/compact-s`

The graphs take and give 8-bit NHWC frames; normalisation, upscaling, clamp and rounding are inside. The rewrites are exact:
`fold_copy` and `fold_shuffle` make the decoder's last layers cheap, `Up.as_transposed` is one node where convolution and shuffle
are two, and scaling by 255 is moved into weights, so that pixels enter convolutions as whole numbers, which bfloat16 holds.
"""

import argparse
import copy
import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnxscript.optimizer
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from .networks import FastVSR, Up, bilinear_filter, fold_copy, fold_shuffle, pad_edges, skip_filter

OPSET = 17
VERSION = "0.1.0"

# Working memory of the hungriest stage in bytes per LR pixel: what the process took at 1920x1080 with the CPU provider,
# less what it holds for the whole frame.
MEMORY = {"compact-s": 3000}


def to_nchw(frames):
    return frames.permute(0, 3, 1, 2).float()


def on_pixels(layer):
    """Weight and bias of a convolution on `centred` values, for 8-bit pixels: 4 p / 255 - 2."""
    weight = layer.weight.detach()
    return weight * 4 / 255, layer.bias.detach() - 2 * weight.sum((1, 2, 3))


class EncoderGraph(nn.Module):
    """frames uint8 [T, H, W, 3] -> latent [T, C, H/4, W/4]."""

    def __init__(self, net):
        super().__init__()
        self.encoder = net
        self.stem, self.stem_bias = on_pixels(net.stem)
        self.upscale = bilinear_filter(2)

    def forward(self, frames):
        net = self.encoder
        x = F.conv2d(pad_edges(to_nchw(frames), 2), self.upscale)
        x = F.relu(F.conv2d(x, self.stem, self.stem_bias))
        return net.blocks2(net.down2(net.blocks1(net.down1(x))))


class DecoderGraph(nn.Module):
    """denoised [1, C, H/4, W/4], frames uint8 [1, H, W, 3], state -> frames_hr uint8 [1, 4H, 4W, 3], state."""

    def __init__(self, net):
        super().__init__()
        self.decoder = net
        self.skip = skip_filter()
        self.condition, self.condition_bias = on_pixels(net.condition)
        self.out = 255 * fold_shuffle(fold_copy(net.conv_out.weight.detach()))
        self.out_bias = 255 * net.conv_out.bias.detach().repeat_interleave(4) + 0.5

    def forward(self, denoised, frames, state):
        net, padded = self.decoder, pad_edges(to_nchw(frames), 1)
        x = net.up2(net.blocks1(net.up1(net.mid(net.conv_in(denoised)))))
        x, state = net.step(x + F.conv2d(padded, self.condition, self.condition_bias), state)
        x = F.conv2d(F.relu(net.up3(x)), self.out, self.out_bias, padding=1)
        x = x + F.pixel_shuffle(F.conv2d(padded, self.skip), 2)
        x = F.pixel_shuffle(x, 2).clamp(0, 255).to(torch.uint8)
        return x.permute(0, 2, 3, 1), state


def store_half(model):
    """Keep float initializers as float16 and cast them once: runtimes fold the cast when they load the graph."""
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < 16:
            continue
        name, half = tensor.name, numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(half, name + "_half"))
        casts.append(helper.make_node("Cast", [name + "_half"], [name], to=TensorProto.FLOAT))
    for cast in reversed(casts):
        model.graph.node.insert(0, cast)


def tidy(model):
    """Make every Pad's widths a constant (the tracer computes them by a chain of nodes) and drop what nothing reads any more."""
    graph = model.graph
    width = 2 if graph.output[0].name == "latent" else 1
    for node in graph.node:
        if node.op_type == "Pad":
            node.input[1] = "edge_pads"
    graph.initializer.append(numpy_helper.from_array(np.array([0, 0, width, width] * 2, np.int64), "edge_pads"))
    while True:
        read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
        dead = [node for node in graph.node if not read.intersection(node.output)]
        if not dead:
            break
        for node in dead:
            graph.node.remove(node)
    unread = [tensor for tensor in graph.initializer if tensor.name not in read]
    for tensor in unread:
        graph.initializer.remove(tensor)
    del graph.value_info[:]


def export_graph(module, inputs, names, outputs, axes, path, half):
    torch.onnx.export(
        module,
        inputs,
        path,
        input_names=names,
        output_names=outputs,
        dynamic_axes=axes,
        opset_version=OPSET,
        dynamo=False,
    )
    model = onnxscript.optimizer.optimize(onnx.load(path))
    for output in model.graph.output:
        first = output.type.tensor_type.shape.dim[0]
        if 0 not in axes[output.name]:
            first.dim_value = 1
    tidy(model)
    if half:
        store_half(model)
    model.ir_version = min(model.ir_version, 8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


BLOCK = 8  # tiles of the element have their edges at multiples of this, in LR pixels


def reach(stage, channels, strides, size=160):
    """How far a stage sees around a tile's core, in LR pixels: the reach of the gradient of one block of its output.

    `channels` and `strides` (LR pixels per cell) of the stage's inputs; it returns the output first.
    """
    inputs = [torch.rand(1, c, size // s, size // s, requires_grad=True) for c, s in zip(channels, strides, strict=True)]
    output = stage(*inputs)
    output = output[0] if isinstance(output, tuple) else output
    low, high = size // 2, size // 2 + BLOCK
    cells = slice(low * output.shape[-1] // size, high * output.shape[-1] // size)
    output[..., cells, cells].sum().backward()
    far = 0
    for tensor, stride in zip(inputs, strides, strict=True):
        rows = tensor.grad.abs().sum((0, 1, 3)).nonzero()
        far = max(far, low - int(rows.min()) * stride, (int(rows.max()) + 1) * stride - high)
    return -(-far // BLOCK) * BLOCK


def halos(net):
    """`reach` of the three stages."""
    size = net.size
    return {
        "encoder": reach(net.encoder, [3], [1]),
        "unet": reach(net.unet, [size.latent] * 2, [4, 4]),
        "decoder": reach(net.decoder, [size.latent, 3, size.trunk], [4, 1, 1]),
    }


MANIFEST = """\
format = 1
name = "{name}"
version = "{version}"
license = "MIT OR Apache-2.0"
description = "{description}"

[geometry]
scale = 4
encoder-stride = 8
decoder-stride = 16
multiple = {block}
memory = {memory}

[time]
window = 1
minimum = 1
multiple = 1
first-extra = 0
look-back = 0
look-ahead = 0

[stages.encoder]
file = "encoder.onnx"
halo = {halo[encoder]}
sha256 = "{encoder}"

[stages.unet]
file = "unet.onnx"
halo = {halo[unet]}
sha256 = "{unet}"

[[stages.unet.state]]
input = "unet_state"
output = "unet_state_out"
channels = {latent}
stride = 4

[stages.decoder]
file = "decoder.onnx"
halo = {halo[decoder]}
sha256 = "{decoder}"

[[stages.decoder.state]]
input = "decoder_state"
output = "decoder_state_out"
channels = {trunk}
stride = 1
"""


def export_package(net, name, folder, description, half=True):
    """Write encoder.onnx, unet.onnx, decoder.onnx and model.toml for a FastVSR network into `folder`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    net = copy.deepcopy(net).eval().float()
    halo = halos(net)
    for module in list(net.modules()):
        for child, layer in module.named_children():
            if isinstance(layer, Up):
                setattr(module, child, layer.as_transposed())
    size = net.size
    frames = torch.zeros(1, 32, 40, 3, dtype=torch.uint8)
    latent, trunk = torch.zeros(1, size.latent, 8, 10), torch.zeros(1, size.trunk, 32, 40)
    image, plane = {0: "T", 1: "H", 2: "W"}, {2: "h", 3: "w"}
    export_graph(
        EncoderGraph(net.encoder),
        (frames,),
        ["frames"],
        ["latent"],
        {"frames": image, "latent": {0: "T", **plane}},
        folder / "encoder.onnx",
        half,
    )
    export_graph(
        net.unet,
        (latent, latent),
        ["latent", "unet_state"],
        ["denoised", "unet_state_out"],
        {n: plane for n in ("latent", "unet_state", "denoised", "unet_state_out")},
        folder / "unet.onnx",
        half,
    )
    export_graph(
        DecoderGraph(net.decoder),
        (latent, frames, trunk),
        ["denoised", "frames", "decoder_state"],
        ["frames_hr", "decoder_state_out"],
        {
            "denoised": plane,
            "frames": {1: "H", 2: "W"},
            "frames_hr": {1: "sH", 2: "sW"},
            "decoder_state": {2: "H", 3: "W"},
            "decoder_state_out": {2: "H", 3: "W"},
        },
        folder / "decoder.onnx",
        half,
    )
    hashes = {s: hashlib.sha256((folder / f"{s}.onnx").read_bytes()).hexdigest() for s in ("encoder", "unet", "decoder")}
    manifest = MANIFEST.format(
        name=name,
        version=VERSION,
        description=description,
        block=BLOCK,
        memory=MEMORY.get(name, 0),
        halo=halo,
        latent=size.latent,
        trunk=size.trunk,
        **hashes,
    )
    (folder / "model.toml").write_text(manifest)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True, help="written by train.py")
    parser.add_argument("--out", required=True, help="package folder")
    parser.add_argument("--description", default="FastVSR compact: causal one-step x4 video super-resolution")
    args = parser.parse_args()
    checkpoint = torch.load(args.checkpoint, map_location="cpu", weights_only=True)
    net = FastVSR(checkpoint["network"])
    net.load_state_dict(checkpoint["ema"])
    export_package(net, checkpoint["network"], args.out, args.description)
