"""The compact FastVSR networks: f8 encoder, one-step UNet, f16 decoder (names and roles as in arXiv 2509.24142).

    LR frames [H, W] --bilinear x2--> [2H, 2W] --Encoder f8--> latent [H/4, W/4] --OneStepUNet--> denoised latent
    LR frames, scaled channel by channel by the denoised latent --Decoder f16--> [4H, 4W]

The asymmetry is the paper's: the encoder sees a frame upscaled only x2 and has stride 8, the decoder has stride 16, so
the latent grid has a quarter of the tokens of an f8 pipeline that works on the x4 frame. A x2 network is the same without
that upscaling: encoder f8 on the frame itself, latent at H/8, f16 decoder to 2H.

What differs from the paper is there to run on a laptop, in real time and without seams:
- no attention, no normalisation: 3x3 convolutions and ReLU, so tiles and windows do not depend on one another;
- the work is in the decoder's trunk on the LR grid, where fidelity is won. Encoder and UNet are thin: the latent is a code of
  what the trunk cannot see, how the source was damaged and what it shows around, and it scales the trunk's channels;
- the decoder corrects luma alone. The bicubic frame, whose weights are exact in bfloat16, brings the colours;
- every frame alone: what a state carried from frame to frame was worth is in ABLATIONS.md, 0.01 dB.

Shapes: frames are [N, 3, H, W] in 0..1, H and W multiples of 2 * the latent's stride.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

RELU = 2**0.5  # the gain that makes up for a ReLU


@dataclass(frozen=True)
class Size:
    """Channel widths by grid; `mac` is the budget in thousands of multiply-accumulates per LR pixel of the exported graphs."""

    scale: int
    stem: int  # encoder, after its first halving
    latent: int  # encoder and UNet, x2 frame / 8
    deep: int  # UNet, x2 frame / 16
    trunk: int  # decoder, LR grid
    depth: int  # decoder, convolutions of the trunk
    wide: int  # decoder: the 4C features before shuffle and copy
    mac: int

    @property
    def stride(self):
        """LR pixels per cell of the latent."""
        return 16 // self.scale


# Convolution kernels of CPUs work on 8 or 16 channels at a time: widths are multiples of 16 where the work is.
SIZES = {
    "compact-xs": Size(4, 8, 16, 24, 16, 13, 16, 40),
    "compact-s": Size(4, 12, 32, 48, 32, 13, 32, 150),
    "compact-m": Size(4, 12, 32, 48, 64, 11, 32, 450),
    "compact-x2-xs": Size(2, 8, 16, 24, 16, 15, 16, 40),
    "compact-x2": Size(2, 12, 32, 48, 32, 14, 32, 150),
}


def conv(channels_in, channels_out, gain=1.0, padding=1):
    """3x3 convolution that keeps the size of a signal, times `gain`."""
    layer = nn.Conv2d(channels_in, channels_out, 3, padding=padding)
    nn.init.normal_(layer.weight, std=gain / (9 * channels_in) ** 0.5)
    nn.init.zeros_(layer.bias)
    return layer


class ResBlock(nn.Module):
    """x + conv(relu(conv(x))), the last layer starting small."""

    def __init__(self, channels):
        super().__init__()
        self.conv1, self.conv2 = conv(channels, channels, RELU), conv(channels, channels, 0.2)

    def forward(self, x):
        return x + self.conv2(F.relu(self.conv1(x)))


class Plain(nn.Conv2d):
    """relu(conv(x)), starting as the identity plus noise.

    A shortcut around a linear layer is not a second branch but the initial value of its weights: it costs nothing.
    """

    def __init__(self, channels):
        super().__init__(channels, channels, 3, padding=1)
        nn.init.normal_(self.weight, std=0.5 / (9 * channels) ** 0.5)
        nn.init.zeros_(self.bias)
        with torch.no_grad():
            self.weight[range(channels), range(channels), 1, 1] += 1

    def forward(self, x):
        return F.relu(super().forward(x))


class Down(nn.Conv2d):
    """Half the grid. Starts as space-to-depth and averaging over neighbouring channels, plus noise."""

    def __init__(self, channels_in, channels_out):
        super().__init__(channels_in, channels_out, 3, stride=2, padding=1)
        nn.init.normal_(self.weight, std=0.2 / (9 * channels_in) ** 0.5)
        nn.init.zeros_(self.bias)
        with torch.no_grad():
            for i in range(4 * channels_in):
                o, (c, dy, dx) = i * channels_out // (4 * channels_in), (i // 4, i // 2 % 2, i % 2)
                self.weight[o, c, 1 + dy, 1 + dx] += channels_out / (4 * channels_in)


class Up(nn.Conv2d):
    """A grid finer by `factor`: 1x1 convolution, PixelShuffle. Starts as channel duplication and depth-to-space plus noise.

    One bias per output channel, not per phase, so that it is also a transposed convolution (`as_transposed`).
    """

    def __init__(self, channels_in, channels_out, factor=2):
        super().__init__(channels_in, factor**2 * channels_out, 1)
        self.factor, self.bias = factor, nn.Parameter(torch.zeros(channels_out))
        nn.init.normal_(self.weight, std=0.2 / channels_in**0.5)
        with torch.no_grad():
            for i in range(self.out_channels):
                self.weight[i, i * channels_in // self.out_channels] += 1

    def unshuffled(self, x):
        return F.conv2d(x, self.weight, self.bias.repeat_interleave(self.factor**2))

    def forward(self, x):
        x = self.unshuffled(x)
        return F.pixel_shuffle(x, self.factor) if self.factor > 1 else x

    def as_transposed(self):
        """The same layer as a transposed convolution."""
        k = self.factor  # 1: both are a convolution of single pixels
        layer = nn.ConvTranspose2d(self.in_channels, len(self.bias), k, stride=k)
        layer.bias = self.bias
        layer.weight = nn.Parameter(self.weight.detach().reshape(-1, k, k, self.in_channels).permute(3, 0, 1, 2))
        return layer


def bilinear_filter(scale):
    """[3 scale^2, 3, 3, 3]: bilinear upscaling by `scale` as a 3x3 convolution, one filter per colour and output phase."""
    line = torch.zeros(scale, 3)
    for phase in range(scale):
        offset = (phase + 0.5) / scale - 0.5
        line[phase, 1] = 1 - abs(offset)
        line[phase, 2 if offset > 0 else 0] = abs(offset)
    plane = torch.einsum("ay,bx->abyx", line, line).reshape(scale * scale, 3, 3)
    return torch.einsum("oc,pyx->opcyx", torch.eye(3), plane).reshape(-1, 3, 3, 3)


def bicubic_filter(scale):
    """[scale, scale, 5, 5] by output phase: bicubic upscaling (Keys, a = -0.5), every weight a multiple of 1/256.

    Such weights have eight bits, as pixels have, so that the products are exact even in bfloat16. Those of a phase sum to 1.
    """
    line = torch.zeros(scale, 5, dtype=torch.float64)
    for phase in range(scale):
        for tap in range(5):
            x = abs(tap - 2 - ((phase + 0.5) / scale - 0.5))
            line[phase, tap] = 1.5 * x**3 - 2.5 * x**2 + 1 if x <= 1 else max(0, 2 - x) * (x - 1) * (x - 2) / 2 if x < 2 else 0
    plane = torch.einsum("ay,bx->abyx", line, line)
    levels = (256 * plane).round().reshape(scale, scale, 25)
    # What rounding took from a phase goes to its largest tap.
    largest = levels.argmax(-1, keepdim=True)
    levels.scatter_add_(-1, largest, 256 - levels.sum(-1, keepdim=True))
    return (levels / 256).float().reshape(scale, scale, 5, 5)


def skip_filter(scale):
    """[3 scale^2, 1, 5, 5] for a convolution in three groups: the bicubic frame, for PixelShuffle(scale)."""
    return bicubic_filter(scale).reshape(scale**2, 1, 5, 5).repeat(3, 1, 1, 1)


def pad_edges(x, width):
    return F.pad(x, (width,) * 4, "replicate")


def inner(x):
    """Without the outermost cell on each side."""
    return x[..., 1:-1, 1:-1]


def centred(x):
    """0..1 -> mean near 0, variance near 1."""
    return 4 * x - 2


def from_lr_grid(x, scale):
    """[..., C scale^2, H, W] -> [..., C, scale H, scale W], by PixelShuffles of 2: what `fold_shuffle` leaves on the LR grid."""
    for _ in range(scale // 2):
        x = F.pixel_shuffle(x, 2)
    return x


def to_lr_grid(x, scale):
    """The inverse of `from_lr_grid`."""
    for _ in range(scale // 2):
        x = F.pixel_unshuffle(x, 2)
    return x


def upscaled(frames, scale):
    """The bicubic frame: [N, 3, H, W] -> [N, 3, scale H, scale W]."""
    return F.pixel_shuffle(F.conv2d(pad_edges(frames, 2), skip_filter(scale).to(frames), groups=3), scale)


def fold_copy(weight):
    """conv_out [O, 4C, k, k] behind a copy of C channels 4 times = a convolution [O, C, k, k] on the C channels: exact."""
    return weight.unflatten(1, (4, -1)).sum(1)


def fold_shuffle(weight):
    """PixelShuffle(2) and a convolution [O, C, 3, 3] = a convolution [4 O, 4 C, 3, 3] on the coarser grid and PixelShuffle(2).

    Exact. The features at full resolution, the largest tensor of all, then never exist.
    """
    # Tap r of output phase a sees input phase p: the fine convolution's tap 2 (r - 1) + p - a + 1, if there is one.
    index = torch.arange(3, device=weight.device)
    phase = index[:2]
    taps = 2 * index + phase.view(2, 1) - phase.view(2, 1, 1) + 1  # [a, p, r], shifted by the padding
    folded = F.pad(weight, (2, 2, 2, 2))[:, :, taps][..., taps]
    return folded.permute(0, 2, 5, 1, 3, 6, 4, 7).reshape(4 * len(weight), 4 * weight.shape[1], 3, 3)


class Encoder(nn.Module):
    """f8: LR frame [N, 3, H, W], upscaled x2 for a x4 network -> latent.

    The first halving is a PixelUnshuffle. Before it the x2 frame comes by a convolution; without one, it and the stem are one.
    """

    def __init__(self, size):
        super().__init__()
        if size.scale == 4:
            self.register_buffer("upscale", bilinear_filter(2), persistent=False)  # moves to the network's device with it
            self.stem = conv(12, size.stem, RELU, padding=0)
        else:
            self.upscale = None
            self.stem = nn.Conv2d(3, size.stem, 6, stride=2)
        self.down1 = Down(size.stem, size.latent)
        self.down2 = Down(size.latent, size.latent)
        self.block = ResBlock(size.latent)

    def seen(self, frames):
        """The frame as the stem takes it, edges padded."""
        padded = pad_edges(frames, 2)
        return padded if self.upscale is None else F.conv2d(padded, self.upscale)

    def after_stem(self, x):
        return self.block(F.relu(self.down2(F.relu(self.down1(F.relu(x))))))

    def forward(self, frames):
        return self.after_stem(self.stem(centred(self.seen(frames))))


class OneStepUNet(nn.Module):
    """The denoiser, evaluated once: latent -> denoised latent. Predicts the residual."""

    def __init__(self, size):
        super().__init__()
        self.conv_in = conv(size.latent, size.latent, RELU)
        self.down = Down(size.latent, size.deep)
        self.mid = ResBlock(size.deep)
        self.up = Up(size.deep, size.latent)
        self.conv_out = conv(size.latent, size.latent, 0.2)

    def forward(self, latent):
        x = F.relu(self.conv_in(latent))
        return latent + self.conv_out(F.relu(x + self.up(self.mid(self.down(x)))))


class Decoder(nn.Module):
    """f16, on the LR frame: denoised latent, LR frame [N, 3, H, W] -> [N, 3, scale H, scale W].

    As in the paper it ends in features of 4C channels, PixelShuffle(2), a copy of the channels 4 times, conv_out. The bicubic
    frame is added at the end: the network is a correction of its luma.
    """

    def __init__(self, size):
        super().__init__()
        self.scale = size.scale
        self.condition = conv(3, size.trunk, RELU, padding=0)
        self.gain, self.shift = (Up(size.latent, size.trunk, size.stride) for _ in range(2))
        with torch.no_grad():
            for layer in (self.gain, self.shift):
                layer.weight.normal_(std=0.1 / size.latent**0.5)
            self.gain.bias.fill_(1)
        self.trunk = nn.Sequential(*[Plain(size.trunk) for _ in range(size.depth)])
        self.up = Up(size.trunk, size.wide, size.scale // 2)
        self.conv_out = conv(size.wide, 1, 0.02)

    def on_features(self, features, denoised):
        """What lies on the LR grid: features of the frame, denoised latent -> [N, trunk, H, W]."""
        x = F.relu(features * self.gain(denoised) + self.shift(denoised))
        return x + self.trunk(x)

    def on_frames(self, denoised, frames):
        """`on_features` from the frame."""
        return self.on_features(self.condition(pad_edges(centred(frames), 1)), denoised)

    def correction(self, x):
        """The tail as the paper has it: shuffle, copy, conv_out. [N, 1, scale H, scale W]."""
        return self.conv_out(F.pixel_shuffle(F.relu(self.up(x)), 2).repeat(1, 4, 1, 1))

    def conv_out_at_lr(self):
        """Weight and bias of conv_out behind shuffles and copy, as a convolution on the LR grid, for `from_lr_grid`."""
        weight = fold_copy(self.conv_out.weight)
        for _ in range(self.scale // 2):
            weight = fold_shuffle(weight)
        return weight, self.conv_out.bias.repeat_interleave(self.scale**2)

    def correction_at_lr(self, x):
        """`correction` left on the LR grid, [N, scale^2, H, W], for `from_lr_grid`: the same function, faster to train."""
        return F.conv2d(F.relu(self.up.unshuffled(x)), *self.conv_out_at_lr(), padding=1)

    def forward(self, denoised, frames):
        return self.correction(self.on_frames(denoised, frames)) + upscaled(frames, self.scale)


class FastVSR(nn.Module):
    """The three stages: LR frames [N, 3, H, W] -> [N, 3, scale H, scale W]."""

    def __init__(self, name="compact-s"):
        super().__init__()
        self.size = SIZES[name]
        self.encoder, self.unet, self.decoder = Encoder(self.size), OneStepUNet(self.size), Decoder(self.size)

    def denoise(self, frames):
        """[N, 3, H, W] -> denoised latent."""
        return self.unet(self.encoder(frames))

    def forward(self, frames):
        return self.decoder(self.denoise(frames), frames)
