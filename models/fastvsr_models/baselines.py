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

import torch.nn.functional as F
from torch import nn

from .export import DecoderGraph, EncoderGraph, UNetGraph, fused, load_network
from .networks import bilinear_filter, fold_copy, inner, pad_edges
from .package import Stage, to_frames, to_nchw, write_package


class EncoderX4Graph(EncoderGraph):
    """frames uint8 [T, H, W, 3] -> latent [T, C, H/2, W/2]: f8 on the x4 frame."""

    def __init__(self, net):
        super().__init__(net)
        self.upscale = bilinear_filter(4)
        # PixelUnshuffle(2) and the stem are one convolution on the x4 frame.
        self.stem, self.stride = F.pixel_shuffle(self.stem, 2), 2

    def seen(self, frames):
        return inner(inner(F.pixel_shuffle(F.conv2d(pad_edges(to_nchw(frames), 2), self.upscale), 4)))


class Steps(nn.Module):
    """The UNet `count` times, each on what the one before made."""

    def __init__(self, unet, count):
        super().__init__()
        self.unet, self.count = unet, count

    def forward(self, latent):
        for _ in range(self.count):
            latent = self.unet(latent)
        return latent


class F8DecoderGraph(DecoderGraph):
    """denoised [T, C, H/2, W/2], frames uint8 [T, H, W, 3] -> frames_hr uint8 [T, 4H, 4W, 3]: the trunk lies at 2H."""

    def __init__(self, net):
        super().__init__(net)
        self.x2 = bilinear_filter(2)
        self.out, self.out_bias = 255 * net.conv_out.weight.detach(), 255 * net.conv_out.bias.detach() + 0.5

    def forward(self, denoised, frames):
        net, levels = self.decoder, to_nchw(frames)
        x2 = inner(F.pixel_shuffle(F.conv2d(pad_edges(levels, 2), self.x2), 2))
        features = F.conv2d(x2, self.condition, self.condition_bias)
        x = F.relu(net.up(net.on_features(features, denoised)))
        return to_frames(self.skipped(levels) + F.conv2d(x, self.out, self.out_bias, padding=1))


class CopyDecoderGraph(DecoderGraph):
    """The f16 decoder with its end at full resolution."""

    def __init__(self, net, fold):
        super().__init__(net)
        weight = 255 * net.conv_out.weight.detach()
        self.out, self.copies = (fold_copy(weight), 1) if fold else (weight, 4)
        self.out_bias = 255 * net.conv_out.bias.detach() + 0.5

    def correction(self, features):
        x = F.pixel_shuffle(features, 2)
        if self.copies > 1:
            x = x.repeat(1, self.copies, 1, 1)
        return F.conv2d(x, self.out, self.out_bias, padding=1)


class UnconditionedDecoderGraph(DecoderGraph):
    """The f16 decoder on the latent alone: denoised -> frames_hr."""

    def forward(self, denoised):
        x = F.relu(self.decoder.up(self.decoder.on_features(0, denoised)))
        return to_frames(self.correction(x).expand(-1, 3, -1, -1) + 127.5)


def export_baselines(net, folder):
    """Write the packages of the module's docstring, each into a folder of its name in `folder`."""
    size, net = net.size, fused(net)
    encoder, encoder_x4 = Stage(EncoderGraph(net.encoder), ("frames",)), Stage(EncoderX4Graph(net.encoder), ("frames",))
    once = Stage(UNetGraph(net.unet), ("latent",))
    f8 = Stage(F8DecoderGraph(net.decoder), ("denoised", "frames"))

    def f16(decoder, takes=("denoised", "frames")):
        return {"encoder": encoder, "unet": once, "decoder": Stage(decoder, takes)}

    def symmetric(count):
        return {"encoder": encoder_x4, "unet": Stage(Steps(net.unet, count), ("latent",)), "decoder": f8}

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
        write_package(Path(folder, name), about, {"scale": 4, **strides, "multiple": 2 * size.stride}, 1, stages)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True, help="written by train.py")
    parser.add_argument("--out", required=True, help="folder for the packages")
    args = parser.parse_args()
    export_baselines(load_network(args.checkpoint)[0], args.out)
