"""Export: a trained network -> a model package (model.toml and three ONNX graphs) that the fastvsr element runs.

`python -m fastvsr_models.export --checkpoint FILE --out models/compact-s`

The graphs take and give 8-bit NHWC frames; normalisation, upscaling, clamp and rounding are inside. The rewrites are exact:
`fold_copy` and `fold_shuffle` make the decoder's last layers cheap, `Up.as_transposed` is one node where convolution and shuffle
are two, and scaling by 255 is moved into weights, so that pixels enter convolutions as whole numbers, which bfloat16 holds.
"""

import argparse
import copy
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from .networks import FastVSR, Up, bilinear_filter, fold_copy, fold_shuffle, pad_edges, skip_filter
from .package import Stage, State, to_frames, to_nchw, to_packed, to_planes, write_package

# Working memory of the hungriest stage in bytes per LR pixel, by network: what the process took with the CPU provider, less
# what it holds for the whole frame.
MEMORY = {"compact-s": 3000, "compact-m": 5500}


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

    def unshuffled(self, frames):
        """The x2 frame, as `Encoder.encode` takes it."""
        return F.conv2d(pad_edges(to_nchw(frames), 2), self.upscale)

    def forward(self, frames):
        net = self.encoder
        x = F.relu(F.conv2d(self.unshuffled(frames), self.stem, self.stem_bias))
        return net.blocks2(net.down2(net.blocks1(net.down1(x))))


class UNetGraph(nn.Module):
    """latent [1, C, H/4, W/4], state -> denoised [1, C, H/4, W/4], state."""

    def __init__(self, net):
        super().__init__()
        self.unet = net

    def forward(self, latent, state):
        denoised, state = self.unet(latent, to_planes(state))
        return denoised, to_packed(state)


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
        x, state = net.step(x + F.conv2d(padded, self.condition, self.condition_bias), to_planes(state))
        frames_hr = to_frames(self.image(F.relu(net.up3(x)), F.pixel_shuffle(F.conv2d(padded, self.skip), 2)))
        return frames_hr, to_packed(state)

    def image(self, features, skip):
        """Features [1, 4C, 2H, 2W] and the upscaled frame in PixelUnshuffle layout -> [1, 3, 4H, 4W]."""
        return F.pixel_shuffle(F.conv2d(features, self.out, self.out_bias, padding=1) + skip, 2)


BLOCK = 8  # tiles of the element have their edges at multiples of this, in LR pixels


def reach(stage, channels, strides, size=160):
    """How far a stage sees around a tile's core, in LR pixels: the reach of the gradient of one block of its output.

    `channels` and `strides` (LR pixels per cell) of the stage's inputs; it returns the output first.
    """
    inputs = [torch.ones(1, c, size // s, size // s, requires_grad=True) for c, s in zip(channels, strides, strict=True)]
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
    """`reach` of the three stages, every weight alike: of trained ones some are dead, or cancel one another."""
    size, net = net.size, copy.deepcopy(net)
    with torch.no_grad():
        for weight in net.parameters():
            weight.fill_(1 / weight[0].numel() if weight.dim() > 1 else 0)
    return {
        "encoder": reach(net.encoder, [3], [1]),
        "unet": reach(net.unet, [size.latent] * 2, [4, 4]),
        "decoder": reach(net.decoder, [size.latent, 3, size.trunk], [4, 1, 1]),
    }


def fused(net):
    """A copy of a network for export: every `Up` as one transposed convolution."""
    net = copy.deepcopy(net).eval().float()
    for module in list(net.modules()):
        for child, layer in module.named_children():
            if isinstance(layer, Up):
                setattr(module, child, layer.as_transposed())
    return net


def grey_drift(net):
    """By how much greys change on average, [3]: frames in 0..1."""
    with torch.no_grad():
        greys = torch.linspace(0, 1, 52).view(-1, 1, 1, 1, 1).expand(-1, 2, 3, 32, 32)
        return (net(greys)[:, -1] - greys[:, -1, :, :1, :1]).mean((0, 2, 3))


def keep_greys(net):
    """Take the drift of greys off the last bias.

    Training in bfloat16 leaves up to half a level: there p / 255 is rounded up more often than down, in the graphs it is exact.
    """
    drift = grey_drift(net)
    with torch.no_grad():
        net.decoder.conv_out.bias -= drift


def state(stage, channels, stride):
    return State(f"{stage}_state", f"{stage}_state_out", channels, stride)


def export_package(net, name, folder, description, half=True, memory=0):
    """Write the package of a FastVSR network into `folder`."""
    halo, size, net = halos(net), net.size, fused(net)
    stages = {
        "encoder": Stage(EncoderGraph(net.encoder), ("frames",), halo=halo["encoder"]),
        "unet": Stage(UNetGraph(net.unet), ("latent",), (state("unet", size.latent, 4),), halo["unet"]),
        "decoder": Stage(DecoderGraph(net.decoder), ("denoised", "frames"), (state("decoder", size.trunk, 1),), halo["decoder"]),
    }
    about = {"name": name, "license": "MIT OR Apache-2.0", "description": description}
    geometry = {"scale": 4, "encoder-stride": 8, "decoder-stride": 16, "multiple": BLOCK, "memory": memory}
    write_package(folder, about, geometry, 1, stages, half)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True, help="written by train.py")
    parser.add_argument("--out", required=True, help="package folder; its name is the package's")
    parser.add_argument("--description", default="FastVSR compact: causal one-step x4 video super-resolution")
    args = parser.parse_args()
    checkpoint = torch.load(args.checkpoint, map_location="cpu", weights_only=True)
    net = FastVSR(checkpoint["network"])
    net.load_state_dict(checkpoint["ema"])
    keep_greys(net)
    network = checkpoint["network"]
    export_package(net, Path(args.out).name, args.out, args.description, memory=MEMORY[network])
