"""What the ablations change: other strides, conditions and memories of FastVSR, and a discriminator in place of the judges."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from .networks import FastVSR, centred, conv, from_lr_grid, pad_edges, skip_filter, to_lr_grid


class Variant(FastVSR):
    """FastVSR with one choice made otherwise; with none it is the same function of the same weights.

    stride        of the decoder. 8: frames upscaled x4 before the encoder; 16: x2; 32: not at all, all of x4 is the decoder's,
                  which ends in PixelShuffle(4) and 16 copies. The encoder is f8 always; trunk and state lie 4 cells to a latent.
    condition     whether the decoder sees the LR frame, upscaled frame included
    memory        which hidden states go from frame to frame: "latent" (the UNet's), "lr" (the decoder's); others are zero
    latent_noise  standard deviation of the noise on denoised latents in training
    """

    def __init__(self, name="compact-s", stride=16, condition=True, memory=("latent", "lr"), latent_noise=0.0):
        super().__init__(name)
        self.stride, self.condition, self.memory, self.latent_noise = stride, condition, memory, latent_noise
        if stride == 32:
            self.decoder.condition = conv(12, self.size.trunk, padding=0)

    def on_trunk(self, frames):
        """LR frames on the trunk's grid, without loss."""
        if self.stride == 8:
            return F.interpolate(frames, scale_factor=2, mode="bilinear")
        return frames if self.stride == 16 else F.pixel_unshuffle(frames, 2)

    def encode(self, frames):
        image = F.interpolate(frames, scale_factor=32 // self.stride, mode="bilinear")
        return self.encoder.encode(F.pixel_unshuffle(pad_edges(image, 2), 2))

    def denoise(self, latent):
        if "latent" in self.memory:
            denoised = super().denoise(latent)
        else:
            flat = latent.flatten(0, 1)
            denoised = self.unet(flat, torch.zeros_like(flat))[0].unflatten(0, latent.shape[:2])
        if self.latent_noise and torch.is_grad_enabled():
            denoised = denoised + self.latent_noise * torch.randn_like(denoised)
        return denoised

    def decode(self, denoised, frames, at_lr=False, keep=1.0):
        net, flat = self.decoder, frames.flatten(0, 1)
        x = net.features(denoised.flatten(0, 1))
        if self.condition:
            x = x + keep * net.condition(pad_edges(centred(self.on_trunk(flat)), 1))
        if "lr" in self.memory:
            features = x.unflatten(0, frames.shape[:2])
            state, trunk = torch.zeros_like(features[:, 0]), []
            for frame in features.unbind(1):
                x, state = net.step(frame, state)
                trunk.append(x)
            x = torch.stack(trunk, 1).flatten(0, 1)
        else:
            x = net.step(x, torch.zeros_like(x))[0]
        shuffle = self.stride // 8
        x = F.pixel_shuffle(F.relu(net.up3(x)), shuffle).repeat(1, shuffle**2, 1, 1)
        upscaled = from_lr_grid(F.conv2d(pad_edges(flat, 1), skip_filter().to(x))) if self.condition else 0.5
        image = (net.conv_out(x) + upscaled).unflatten(0, frames.shape[:2])
        return to_lr_grid(image) if at_lr else image

    def forward(self, frames, at_lr=False, keep=1.0):
        latent = self.encode(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        return self.decode(self.denoise(latent), frames, at_lr, keep)


class Adversary:
    """A patch discriminator with the hinge loss, with the interface of `LowerBoundGuidance`."""

    def __init__(self, rate, device, width=32):
        widths = [3, width, 2 * width, 4 * width]
        layers = [nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in pairwise(widths)]
        layers = [module for layer in layers for module in (nn.utils.spectral_norm(layer), nn.LeakyReLU(0.2))]
        self.net = nn.Sequential(*layers, nn.utils.spectral_norm(nn.Conv2d(widths[-1], 1, 3, padding=1))).to(device)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=rate, betas=(0.5, 0.99), weight_decay=0)

    def loss(self, fake):
        """To be believed: a gradient to the output only."""
        self.net.requires_grad_(False)
        loss = -self.net(centred(fake)).mean()
        self.net.requires_grad_(True)
        return loss

    def track(self, fake, real):
        """One step of the discriminator; returns its loss."""
        loss = F.relu(1 + self.net(centred(fake.detach()))).mean() + F.relu(1 - self.net(centred(real))).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def state_dict(self):
        return {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state):
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
