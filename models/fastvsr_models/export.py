"""Export: a trained network -> a model package (model.toml and three ONNX graphs) that the fastvsr element runs.

`python -m fastvsr_models.export --checkpoint FILE --out models/compact-s --int8 CACHE`

With --mix the weights are a mean of two networks of which one was trained on from the other: between a faithful one and one that
a teacher taught lie such as clean a compressed source nearly as well and spoil a clean one less.

The graphs take and give 8-bit NHWC frames; normalisation, upscaling, clamp and rounding are inside. The rewrites are exact:
`fold_copy` and `fold_shuffle` make the decoder's last layers cheap, `Up.as_transposed` is one node where convolution and shuffle
are two, and scaling by 255 is moved into weights, so that pixels enter convolutions as whole numbers, which bfloat16 holds.
"""

import argparse
import copy
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from .data import Clips, kinds_of
from .networks import FastVSR, Up, fold_copy, fold_shuffle, from_lr_grid, pad_edges, skip_filter
from .package import Stage, export_stage, sha256, to_frames, to_nchw, write_package
from .quantize import quantize, record

# Working memory of the hungriest stage in bytes per LR pixel, by network: what the process took with the CPU provider, less
# what it holds for the whole frame.
MEMORY = {"compact-xs": 1800, "compact-s": 3400, "compact-m": 4000, "compact-x2-xs": 800, "compact-x2": 1500}


def on_pixels(layer):
    """Weight and bias of a convolution on `centred` values, for 8-bit pixels: 4 p / 255 - 2."""
    weight = layer.weight.detach()
    return weight * 4 / 255, layer.bias.detach() - 2 * weight.sum((1, 2, 3))


class EncoderGraph(nn.Module):
    """frames uint8 [T, H, W, 3] -> latent [T, C, h, w]."""

    def __init__(self, net):
        super().__init__()
        self.encoder = net
        self.stem, self.stem_bias = on_pixels(net.stem)
        self.stride = net.stem.stride

    def seen(self, frames):
        """The frame as the stem takes it, in 8-bit levels."""
        return self.encoder.seen(to_nchw(frames))

    def forward(self, frames):
        x = F.conv2d(self.seen(frames), self.stem, self.stem_bias, self.stride)
        return self.encoder.after_stem(x)


class UNetGraph(nn.Module):
    """latent [T, C, h, w] -> denoised [T, C, h, w]."""

    def __init__(self, net):
        super().__init__()
        self.unet = net

    def forward(self, latent):
        return self.unet(latent)


class DecoderGraph(nn.Module):
    """denoised [T, C, h, w], frames uint8 [T, H, W, 3] -> frames_hr uint8 [T, scale H, scale W, 3]."""

    def __init__(self, net):
        super().__init__()
        self.decoder, self.scale = net, net.scale
        self.skip = skip_filter(net.scale)
        self.condition, self.condition_bias = on_pixels(net.condition)
        self.out = 255 * fold_shuffle(fold_copy(net.conv_out.weight.detach()))
        self.out_bias = 255 * net.conv_out.bias.detach().repeat_interleave(4) + 0.5

    def forward(self, denoised, frames):
        levels = to_nchw(frames)
        features = F.conv2d(pad_edges(levels, 1), self.condition, self.condition_bias)
        return self.image(levels, self.decoder.on_features(features, denoised))

    def image(self, levels, x):
        """The frame in 8-bit levels and the trunk's features -> frames_hr."""
        return to_frames(self.skipped(levels) + self.correction(F.relu(self.decoder.up(x))))

    def skipped(self, levels):
        """The bicubic frame."""
        return F.pixel_shuffle(self.skipped_at_lr(levels), self.scale)

    def skipped_at_lr(self, levels):
        return F.conv2d(pad_edges(levels, 2), self.skip, groups=3)

    def correction(self, features):
        """Features of 4C channels -> what is added to red, green and blue, [T, 1, scale H, scale W]."""
        return F.pixel_shuffle(F.conv2d(features, self.out, self.out_bias, padding=1), 2)


class IntegerDecoderGraph(DecoderGraph):
    """The same function for 8-bit integers: its end stays on the LR grid, with more multiplications and less memory to move, and
    the pixels are bytes before they are shuffled.

    In floating point both forms take the same time; in integers this one takes 0.87 of the other's (OpenVINO, AVX2).
    """

    def __init__(self, net, up):
        super().__init__(net)
        self.up, (weight, bias) = up, net.conv_out_at_lr()
        # The features come in the order of shuffles of 2; the pixels are wanted in that of one shuffle.
        phases = torch.arange(self.scale**2).float().view(1, -1, 1, 1)
        order = F.pixel_unshuffle(from_lr_grid(phases, self.scale), self.scale).flatten().long()
        self.out, self.out_bias = 255 * weight.detach()[order], 255 * bias.detach() + 0.5

    def image(self, levels, x):
        correction = F.conv2d(F.relu(self.up.unshuffled(x)), self.out, self.out_bias, padding=1)
        pixels = (self.skipped_at_lr(levels) + correction.repeat(1, 3, 1, 1)).clamp(0, 255).to(torch.uint8)
        (height, width), scale = pixels.shape[2:], self.scale
        pixels = pixels.reshape(-1, 3, scale, scale, height, width).permute(0, 4, 2, 5, 3, 1)
        return pixels.reshape(-1, scale * height, scale * width, 3)


def reach(stage, channels, strides, block, size=320):
    """How far a stage sees around a tile's core, in LR pixels: the reach of the gradient of one block of its output.

    `channels` and `strides` (LR pixels per cell) of the stage's inputs; it returns the output first. The element's tiles have
    their edges at multiples of `block`.
    """
    inputs = [torch.ones(1, c, size // s, size // s, requires_grad=True) for c, s in zip(channels, strides, strict=True)]
    output = stage(*inputs)
    low, high = size // 2, size // 2 + block
    cells = slice(low * output.shape[-1] // size, high * output.shape[-1] // size)
    output[..., cells, cells].sum().backward()
    far = 0
    for tensor, stride in zip(inputs, strides, strict=True):
        rows = tensor.grad.abs().sum((0, 1, 3)).nonzero()
        far = max(far, low - int(rows.min()) * stride, (int(rows.max()) + 1) * stride - high)
    return -(-far // block) * block


def halos(net):
    """`reach` of the three stages, every weight alike: of trained ones some are dead, or cancel one another."""
    size, net = net.size, copy.deepcopy(net)
    with torch.no_grad():
        for weight in net.parameters():
            weight.fill_(1 / weight[0].numel() if weight.dim() > 1 else 0)
    block = 2 * size.stride
    return {
        "encoder": reach(net.encoder, [3], [1], block),
        "unet": reach(net.unet, [size.latent], [size.stride], block),
        "decoder": reach(net.decoder, [size.latent, 3], [size.stride, 1], block),
    }


def fused(net):
    """A copy of a network for export: every `Up` as one transposed convolution."""
    net = copy.deepcopy(net).eval().float()
    for module in list(net.modules()):
        for child, layer in module.named_children():
            if isinstance(layer, Up):
                setattr(module, child, layer.as_transposed())
    return net


def export_package(net, name, folder, description, half=True, memory=0):
    """Write the package of a FastVSR network into `folder`."""
    halo, size, net = halos(net), net.size, fused(net)
    stages = {
        "encoder": Stage(EncoderGraph(net.encoder), ("frames",), halo["encoder"]),
        "unet": Stage(UNetGraph(net.unet), ("latent",), halo["unet"]),
        "decoder": Stage(DecoderGraph(net.decoder), ("denoised", "frames"), halo["decoder"]),
    }
    about = {"name": name, "license": "MIT OR Apache-2.0", "description": description}
    geometry = {"scale": size.scale, "encoder-stride": 8, "decoder-stride": 16, "multiple": 2 * size.stride, "memory": memory}
    write_package(folder, about, geometry, 1, stages, half)


def add_int8(net, folder, clips):
    """Add the decoder in 8-bit integers to the package of a network; ranges from `clips`, uint8 [T, H, W, 3] each.

    Encoder and UNet stay as they are: they are little work.
    """
    size, folder = net.size, Path(folder)
    graph = IntegerDecoderGraph(fused(net).decoder, net.decoder.up)
    stage = Stage(graph, ("denoised", "frames"))
    height, width = 32, 48
    latent = torch.zeros(1, size.latent, height // size.stride, width // size.stride)
    target = folder / "decoder-int8.onnx"
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary, "decoder.onnx")
        export_stage(
            "decoder", stage, {"frames": torch.zeros(1, height, width, 3, dtype=torch.uint8), "denoised": latent}, source
        )
        quantize(source, record(folder, clips)["decoder"], target)
    manifest, line = (folder / "model.toml").read_text(), f'sha256 = "{sha256(folder / "decoder.onnx")}"'
    entry = f'int8 = {{ file = "{target.name}", sha256 = "{sha256(target)}" }}'
    (folder / "model.toml").write_text(manifest.replace(line, f"{line}\n{entry}"))


def save_half(net, network, path):
    """A small checkpoint, for `--init` and export: weights in half precision."""
    torch.save({"network": network, "ema": {name: value.half() for name, value in net.state_dict().items()}}, path)


def load_network(path):
    """The averaged network of a checkpoint, and its name."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    net = FastVSR(checkpoint["network"])
    net.load_state_dict(checkpoint["ema"])
    return net, checkpoint["network"]


def mix(net, other, share):
    """Moves the weights of a network by `share` of the way towards those of another."""
    with torch.no_grad():
        for weight, aim in zip(net.parameters(), other.parameters(), strict=True):
            weight.lerp_(aim, share)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True, help="written by train.py")
    parser.add_argument("--mix", help="a second checkpoint of the same network, to go towards")
    parser.add_argument("--share", type=float, default=0.8, help="how far to go towards it, 0 to 1")
    parser.add_argument("--out", required=True, help="package folder; its name is the package's")
    parser.add_argument("--description", default="FastVSR compact: one-step video super-resolution")
    parser.add_argument("--half", help="file for the weights alone, in half precision")
    parser.add_argument("--int8", help="training cache, for ranges: add the decoder in 8-bit integers")
    args = parser.parse_args()
    net, network = load_network(args.checkpoint)
    if args.mix:
        other, its_network = load_network(args.mix)
        if its_network != network:
            parser.error(f"--mix: expected a checkpoint of {network}, got one of {its_network}")
        mix(net, other, args.share)
    if args.half:
        save_half(net, network, args.half)
    export_package(net, Path(args.out).name, args.out, args.description, memory=MEMORY[network])
    if args.int8:
        kinds = kinds_of(args.int8) & {"bi", "codec"}
        crops = Clips(args.int8, kinds=dict.fromkeys(sorted(kinds), 1 / len(kinds))).batch(32, 64)[0]
        add_int8(net, args.out, crops[:, None].numpy())
