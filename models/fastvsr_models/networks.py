"""The compact FastVSR networks: f8 encoder, one-step UNet, f16 decoder (names and roles as in arXiv 2509.24142).

    LR frames [H, W] --bilinear x2--> [2H, 2W] --Encoder f8--> latent [H/4, W/4] --OneStepUNet--> denoised latent
    denoised latent --Decoder f16, conditioned on the LR frame--> [4H, 4W]

The asymmetry is the paper's: the encoder sees a frame upscaled only x2 and has stride 8, the decoder has stride 16, so
the latent grid has a quarter of the tokens of an f8 pipeline that works on the x4 frame.

What differs from the paper is there to run on a laptop, in real time and without seams:
- no attention, no normalisation: 3x3 convolutions and ReLU, so tiles and windows do not depend on one another;
- causal in time: UNet and decoder each carry a hidden state from frame to frame (as RLSP and RRN do);
- every change of grid starts as a shortcut without parameters (space-to-depth and averaging down, duplication and
  depth-to-space up, as in DC-AE). Being linear it is not a second branch but the initial value of the convolution,
  plus noise. Without it a plain stack does not train through the stride-4 bottleneck.

Shapes: frames are [B, T, 3, H, W] in 0..1, H and W multiples of 8. Layers without memory run on all B*T frames at once.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

RELU = 2**0.5  # the gain that makes up for a ReLU


@dataclass(frozen=True)
class Size:
    """Channel widths by grid; `mac` is the budget in thousands of multiply-accumulates per LR pixel of the exported graphs."""

    stem: int  # encoder, LR grid
    half: int  # encoder and decoder, H/2
    half_blocks: int
    latent: int  # H/4
    deep: int  # UNet, H/8
    deep_blocks: int
    trunk: int  # decoder, LR grid, and its state
    trunk_blocks: int
    wide: int  # decoder, 2H: the 4C features before shuffle and copy
    mac: int


SIZES = {
    "compact-s": Size(16, 32, 1, 64, 128, 1, 32, 3, 32, 150),
    "compact-m": Size(32, 64, 1, 64, 128, 2, 48, 6, 48, 450),
}


def conv(channels_in, channels_out, gain=1.0, padding=1):
    """3x3 convolution that keeps the size of a signal, times `gain`: where signals fade, the path through the latent dies."""
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


def blocks(channels, count):
    return nn.Sequential(*[ResBlock(channels) for _ in range(count)])


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
    """Double the grid: 1x1 convolution, PixelShuffle. Starts as channel duplication and depth-to-space plus noise.

    One bias per output channel, not per phase, so that it is also a transposed convolution (`as_transposed`).
    """

    def __init__(self, channels_in, channels_out):
        super().__init__(channels_in, 4 * channels_out, 1)
        self.bias = nn.Parameter(torch.zeros(channels_out))
        nn.init.normal_(self.weight, std=0.2 / channels_in**0.5)
        with torch.no_grad():
            for i in range(4 * channels_out):
                self.weight[i, i * channels_in // (4 * channels_out)] += 1

    def unshuffled(self, x):
        return F.conv2d(x, self.weight, self.bias.repeat_interleave(4))

    def forward(self, x):
        return F.pixel_shuffle(self.unshuffled(x), 2)

    def as_transposed(self):
        """The same layer as a 2x2 transposed convolution of stride 2."""
        layer = nn.ConvTranspose2d(self.in_channels, len(self.bias), 2, stride=2)
        layer.bias = self.bias
        layer.weight = nn.Parameter(self.weight.detach().reshape(-1, 2, 2, self.in_channels).permute(3, 0, 1, 2))
        return layer


def bilinear_filter(scale):
    """[3 scale^2, 3, 3, 3]: bilinear upscaling by `scale` as a 3x3 convolution, one filter per colour and output phase.

    For scales 2 and 4 the weights are multiples of 1/64 below 1, so 8-bit pixels pass through exactly even in bfloat16.
    """
    line = torch.zeros(scale, 3)
    for phase in range(scale):
        offset = (phase + 0.5) / scale - 0.5
        line[phase, 1] = 1 - abs(offset)
        line[phase, 2 if offset > 0 else 0] = abs(offset)
    plane = torch.einsum("ay,bx->abyx", line, line).reshape(scale * scale, 3, 3)
    return torch.einsum("oc,pyx->opcyx", torch.eye(3), plane).reshape(-1, 3, 3, 3)


def pad_edges(x, width):
    return F.pad(x, (width,) * 4, "replicate")


def centred(x):
    """0..1 -> mean near 0, variance near 1."""
    return 4 * x - 2


def upscale_unshuffled(x, scale):
    """Bilinear upscaling, left in PixelUnshuffle layout: edge-padded [N, 3, H+2, W+2] -> [N, 3 scale^2, H, W]."""
    return F.conv2d(x, bilinear_filter(scale).to(x))


def skip_filter():
    """`bilinear_filter(4)` with its phases ordered for two PixelShuffles by 2: [o, 2A+a, 2B+b] -> [o, a, b, A, B]."""
    return bilinear_filter(4).reshape(3, 2, 2, 2, 2, -1).permute(0, 2, 4, 1, 3, 5).reshape(48, 3, 3, 3)


def from_lr_grid(x):
    """[..., 48, H, W] -> [..., 3, 4H, 4W]."""
    return F.pixel_shuffle(F.pixel_shuffle(x, 2), 2)


def to_lr_grid(x):
    """[..., 3, 4H, 4W] -> [..., 48, H, W], the inverse of `from_lr_grid`."""
    return F.pixel_unshuffle(F.pixel_unshuffle(x, 2), 2)


def fold_copy(weight):
    """conv_out [O, 4C, k, k] behind a copy of C channels 4 times = a convolution [O, C, k, k] on the C channels: exact."""
    return weight.unflatten(1, (4, -1)).sum(1)


def fold_shuffle(weight):
    """PixelShuffle(2) and a convolution [O, C, 3, 3] on 4H = a convolution [4 O, 4 C, 3, 3] on 2H and PixelShuffle(2): exact.

    The features at full resolution, the largest tensor of all, then never exist.
    """
    outs, channels = weight.shape[:2]
    folded = weight.new_zeros(outs, 2, 2, channels, 2, 2, 3, 3)
    for a in range(2):
        for b in range(2):
            for dy in range(3):
                for dx in range(3):
                    (row, p), (col, q) = divmod(a + dy - 1, 2), divmod(b + dx - 1, 2)
                    folded[:, a, b, :, p, q, row + 1, col + 1] += weight[:, :, dy, dx]
    return folded.reshape(4 * outs, 4 * channels, 3, 3)


class Encoder(nn.Module):
    """f8 on the x2 frame: [N, 3, H, W] -> latent [N, C, H/4, W/4]. Its first step down, a PixelUnshuffle, comes with the x2."""

    def __init__(self, size):
        super().__init__()
        self.stem = conv(12, size.stem, RELU, padding=0)
        self.down1 = Down(size.stem, size.half)
        self.blocks1 = blocks(size.half, size.half_blocks)
        self.down2 = Down(size.half, size.latent)
        self.blocks2 = blocks(size.latent, 1)

    def encode(self, unshuffled):
        """The x2 frame, or any image for the VAE, edges padded by 2, after PixelUnshuffle(2): [N, 12, H+2, W+2]."""
        x = self.blocks1(self.down1(F.relu(self.stem(centred(unshuffled)))))
        return self.blocks2(self.down2(x))

    def forward(self, x):
        return self.encode(upscale_unshuffled(pad_edges(x, 2), 2))


class OneStepUNet(nn.Module):
    """The denoiser, evaluated once: latent, state -> denoised latent, new state, all [N, C, H/4, W/4]. Predicts the residual."""

    def __init__(self, size):
        super().__init__()
        self.conv_in = conv(2 * size.latent, size.latent, RELU / 2)  # half, as the next step doubles what is in the state
        self.down = Down(size.latent, size.deep)
        self.mid = blocks(size.deep, size.deep_blocks)
        self.up = Up(size.deep, size.latent)
        self.out = blocks(size.latent, 1)
        self.conv_out = conv(size.latent, size.latent, 0.2)

    def forward(self, latent, state):
        x = F.relu(self.conv_in(torch.cat([latent, state], 1)))
        x = self.out(x + self.up(self.mid(self.down(x))))
        return latent + self.conv_out(x), bounded(x)


class Decoder(nn.Module):
    """f16, LR-conditioned: denoised latent [N, C, H/4, W/4] and LR frame [N, 3, H, W] -> [N, 3, 4H, 4W].

    As in the paper: conv_in, mid, ups, features of 4C channels, PixelShuffle(2), copy the channels 4 times, conv_out. The
    two added steps have no parameters, so that conv_out keeps the shape it has in the f8 decoder (`stride=8`, which ends
    at 2H) and is initialised from it. The bilinear frame is added at the end: the network is a correction to it.
    """

    def __init__(self, size, stride=16):
        super().__init__()
        self.stride = stride
        self.conv_in = conv(size.latent, size.latent)
        self.mid = blocks(size.latent, 1)
        self.up1 = Up(size.latent, size.half)
        self.blocks1 = blocks(size.half, size.half_blocks)
        self.up2 = Up(size.half, size.trunk)
        self.condition = conv(3, size.trunk, padding=0)
        self.recur = conv(2 * size.trunk, size.trunk, RELU)
        self.trunk = blocks(size.trunk, size.trunk_blocks)
        self.up3 = Up(size.trunk, size.wide)
        self.conv_out = conv(size.wide, 3, 0.02)

    def features(self, denoised, frames=None, keep=1.0):
        """What needs no memory below the LR grid: [N, trunk, H, W]. Without frames it is the plain decoder of a VAE.

        `keep` [N, 1, 1, 1], zeros and ones, drops the condition of some frames in training. They have to come out of the latent
        alone, which is what keeps the encoder and the UNet from withering beside the easier path.
        """
        x = self.up2(self.blocks1(self.up1(self.mid(self.conv_in(denoised)))))
        return x if frames is None else x + keep * self.condition(pad_edges(centred(frames), 1))

    def step(self, features, state):
        """The recurrent part, at the LR grid: features, state -> trunk output, new state."""
        x = self.trunk(F.relu(self.recur(torch.cat([F.relu(features), state], 1))))
        return x, bounded(x)

    def image(self, x, frames=None):
        """The upsampling tail as the paper has it: PixelShuffle, copy, conv_out; plus the upscaled frame."""
        x = F.relu(self.up3(x))
        if self.stride == 16:
            x = F.pixel_shuffle(x, 2).repeat(1, 4, 1, 1)
        x = self.conv_out(x)
        scale = self.stride // 4
        return x if frames is None else x + F.pixel_shuffle(upscale_unshuffled(pad_edges(frames, 1), scale), scale)

    def image_at_lr(self, x, frames):
        """`image` left on the LR grid, [N, 48, H, W], for `from_lr_grid`: the same function, and faster to train."""
        x = F.relu(self.up3.unshuffled(x))
        weight = fold_shuffle(fold_shuffle(fold_copy(self.conv_out.weight)))
        bias = self.conv_out.bias.repeat_interleave(16)
        return F.conv2d(x, weight, bias, padding=1) + F.conv2d(pad_edges(frames, 1), skip_filter().to(x))

    def forward(self, denoised, frames, state):
        x, state = self.step(self.features(denoised, frames), state)
        return self.image(x, frames), state


def bounded(x):
    """A state that cannot run away, however long the stream."""
    return x.clamp(-16, 16)


class VAE(nn.Module):
    """f8 on any image [N, 3, Y, X], Y and X multiples of 16: stage (a), and both judges of lower-bound-guided training.

    The encoder is the pipeline's, its output the mean; the decoder is the f8 one, without frames and memory.
    """

    def __init__(self, name="compact-s"):
        super().__init__()
        self.size = SIZES[name]
        self.encoder, self.decoder = Encoder(self.size), Decoder(self.size, stride=8)
        self.logvar = nn.Conv2d(self.size.latent, self.size.latent, 1)
        with torch.no_grad():
            self.logvar.weight.zero_()
            self.logvar.bias.fill_(-4)

    def encode(self, image):
        """Mean and log variance of q(z|x), [N, C, Y/8, X/8] each."""
        mean = self.encoder.encode(F.pixel_unshuffle(pad_edges(image, 2), 2))
        return mean, self.logvar(mean).clamp(-12, 4)

    def decode(self, z):
        features = self.decoder.features(z)
        return 0.5 + self.decoder.image(self.decoder.step(features, torch.zeros_like(features))[0])


class FastVSR(nn.Module):
    """The three stages on a whole clip. `forward` is what streaming must equal."""

    def __init__(self, name="compact-s"):
        super().__init__()
        self.size = SIZES[name]
        self.encoder, self.unet, self.decoder = Encoder(self.size), OneStepUNet(self.size), Decoder(self.size)

    def denoise(self, latent):
        """[B, T, C, h, w] -> the same, the UNet's state carried from frame to frame from zeros."""
        state, out = torch.zeros_like(latent[:, 0]), []
        for frame in latent.unbind(1):
            denoised, state = self.unet(frame, state)
            out.append(denoised)
        return torch.stack(out, 1)

    def decode(self, denoised, frames, at_lr=False, keep=1.0):
        """[B, T, C, h, w], [B, T, 3, H, W] -> [B, T, 3, 4H, 4W], or [B, T, 48, H, W] in the order of `to_lr_grid`."""
        shape, flat = frames.shape[:2], frames.flatten(0, 1)
        features = self.decoder.features(denoised.flatten(0, 1), flat, keep).unflatten(0, shape)
        state, trunk = torch.zeros_like(features[:, 0]), []
        for frame in features.unbind(1):
            x, state = self.decoder.step(frame, state)
            trunk.append(x)
        tail = self.decoder.image_at_lr if at_lr else self.decoder.image
        return tail(torch.stack(trunk, 1).flatten(0, 1), flat).unflatten(0, shape)

    def forward(self, frames, at_lr=False, keep=1.0):
        latent = self.encoder(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        return self.decode(self.denoise(latent), frames, at_lr, keep)
