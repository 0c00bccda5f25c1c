"""Packages to measure the method against, made of the same network: the same widths, and the same weights, as every shape fits.

`python -m fastvsr_models.baselines --checkpoint FILE --out DIR` writes one package each to DIR:

    f8-one-step     frame upscaled x4 before the f8 encoder, latent at 2H/4, UNet once, f8 decoder
    f8-50-steps     the same with 50 evaluations of the UNet
    copy            ours, the decoder's end as in the paper: PixelShuffle, channel copy, conv_out
    copy-folded     ours, with the copy folded into conv_out, but features at full resolution
    unconditioned   ours, without the LR frame in the decoder

They are for timing. Every weight was trained where the latent grid is H/4, so the picture of an f8 package is no measure of f8.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from .export import BLOCK, DecoderGraph, EncoderGraph, UNetGraph, fused, on_pixels, state
from .networks import FastVSR, bilinear_filter, fold_copy, pad_edges, skip_filter
from .package import Stage, to_frames, to_nchw, to_packed, to_planes, write_package


def inner(x):
    """Without the outermost cell on each side."""
    return x[..., 1:-1, 1:-1]


class EncoderX4Graph(EncoderGraph):
    """frames uint8 [T, H, W, 3] -> latent [T, C, H/2, W/2]: f8 on the x4 frame."""

    def __init__(self, net):
        super().__init__(net)
        self.upscale = skip_filter()

    def unshuffled(self, frames):
        return inner(F.pixel_shuffle(super().unshuffled(frames), 2))


class Steps(nn.Module):
    """The UNet `count` times, each on what the one before made; all see the state of the frame before."""

    def __init__(self, unet, count):
        super().__init__()
        self.unet, self.count = unet, count

    def forward(self, latent, state):
        for _ in range(self.count):
            latent, new_state = self.unet(latent, state)
        return latent, new_state


class F8DecoderGraph(nn.Module):
    """denoised [1, C, H/2, W/2], frames uint8 [1, H, W, 3], state -> frames_hr uint8 [1, 4H, 4W, 3], state.

    Trunk and state lie at 2H. A package has no strides below 1, so the state passes as [1, H, W, 4 trunk]: the same memory.
    """

    def __init__(self, net):
        super().__init__()
        self.decoder = net
        self.skip, self.upscale = skip_filter(), bilinear_filter(2)
        self.condition, self.condition_bias = on_pixels(net.condition)
        self.out, self.out_bias = 255 * net.conv_out.weight.detach(), 255 * net.conv_out.bias.detach() + 0.5

    def forward(self, denoised, frames, state):
        net, padded = self.decoder, pad_edges(to_nchw(frames), 2)
        x = net.up2(net.blocks1(net.up1(net.mid(net.conv_in(denoised)))))
        x2 = inner(F.pixel_shuffle(F.conv2d(padded, self.upscale), 2))
        trunk = to_planes(state.reshape(1, *x.shape[2:], -1))
        x, new_state = net.step(x + F.conv2d(x2, self.condition, self.condition_bias), trunk)
        x = F.conv2d(F.relu(net.up3(x)), self.out, self.out_bias, padding=1)
        x = x + F.pixel_shuffle(F.pixel_shuffle(F.conv2d(inner(padded), self.skip), 2), 2)
        return to_frames(x), to_packed(new_state).reshape_as(state)


class CopyDecoderGraph(DecoderGraph):
    """The f16 decoder with its end at full resolution."""

    def __init__(self, net, fold):
        super().__init__(net)
        weight = 255 * net.conv_out.weight.detach()
        self.out, self.copies = (fold_copy(weight), 1) if fold else (weight, 4)
        self.out_bias = 255 * net.conv_out.bias.detach() + 0.5

    def image(self, features, skip):
        x = F.pixel_shuffle(features, 2)
        if self.copies > 1:
            x = x.repeat(1, self.copies, 1, 1)
        return F.conv2d(x, self.out, self.out_bias, padding=1) + F.pixel_shuffle(skip, 2)


class UnconditionedDecoderGraph(DecoderGraph):
    """The f16 decoder on the latent alone: denoised, state -> frames_hr, state."""

    def forward(self, denoised, state):
        net = self.decoder
        x, state = net.step(net.up2(net.blocks1(net.up1(net.mid(net.conv_in(denoised))))), to_planes(state))
        return to_frames(self.image(F.relu(net.up3(x)), 127.5)), to_packed(state)


def export_baselines(net, folder):
    """Write the packages of the module's docstring, each into a folder of its name in `folder`."""
    size, net = net.size, fused(net)
    unet, trunk = state("unet", size.latent, 4), state("decoder", size.trunk, 1)
    unet_x4, trunk_x4 = state("unet", size.latent, 2), state("decoder", 4 * size.trunk, 1)
    encoder, encoder_x4 = Stage(EncoderGraph(net.encoder), ("frames",)), Stage(EncoderX4Graph(net.encoder), ("frames",))
    once = Stage(UNetGraph(net.unet), ("latent",), (unet,))
    f8 = Stage(F8DecoderGraph(net.decoder), ("denoised", "frames"), (trunk_x4,))

    def f16(decoder, takes=("denoised", "frames")):
        return {"encoder": encoder, "unet": once, "decoder": Stage(decoder, takes, (trunk,))}

    def symmetric(count):
        steps = UNetGraph(Steps(net.unet, count))
        return {"encoder": encoder_x4, "unet": Stage(steps, ("latent",), (unet_x4,)), "decoder": f8}

    packages = {
        "f8-one-step": symmetric(1),
        "f8-50-steps": symmetric(50),
        "copy": f16(CopyDecoderGraph(net.decoder, fold=False)),
        "copy-folded": f16(CopyDecoderGraph(net.decoder, fold=True)),
        "unconditioned": f16(UnconditionedDecoderGraph(net.decoder), ("denoised",)),
    }
    for name, stages in packages.items():
        about = {"name": name, "license": "MIT OR Apache-2.0", "description": "A baseline for measuring; not for use"}
        strides = {"encoder-stride": 8, "decoder-stride": 8 if name.startswith("f8") else 16}
        write_package(Path(folder, name), about, {"scale": 4, **strides, "multiple": BLOCK}, 1, stages)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True, help="written by train.py")
    parser.add_argument("--out", required=True, help="folder for the packages")
    args = parser.parse_args()
    checkpoint = torch.load(args.checkpoint, map_location="cpu", weights_only=True)
    net = FastVSR(checkpoint["network"])
    net.load_state_dict(checkpoint["ema"])
    export_baselines(net, args.out)
