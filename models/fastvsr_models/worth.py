"""What the stages of a trained network are worth: Y-PSNR with one of them put out of action.

python -m fastvsr_models.worth --checkpoint FILE --val SET5,SET14,VAL

    whole              as it is
    latent by its mean every cell of the denoised latent is the frame's mean: what is left is a code of the whole frame
    unet as identity   the encoder's latent goes to the decoder

A stage that costs nothing when it is missing should have less of the work.
"""

import argparse
import copy

import numpy as np
from torch import nn

from .evaluate import examples, upscale
from .export import load_network
from .metrics import psnr_y


class Mean(nn.Module):
    """The UNet, then the mean over the frame in every cell."""

    def __init__(self, unet):
        super().__init__()
        self.unet = unet

    def forward(self, latent):
        denoised = self.unet(latent)
        return denoised.mean((2, 3), keepdim=True).expand_as(denoised)


def crippled(net):
    """The network and its cripples, by name."""
    nets = {name: copy.deepcopy(net) for name in ("whole", "latent by its mean", "unet as identity")}
    nets["latent by its mean"].unet = Mean(net.unet)
    nets["unet as identity"].unet = nn.Identity()
    return nets


def worth(net, clips):
    """Mean Y-PSNR in dB, by cripple and by the names of the examples."""
    scores = {}
    for cripple, crippled_net in crippled(net).items():
        row = scores[cripple] = {}
        for name, lr, hr in clips:
            row.setdefault(name, []).append(psnr_y(upscale(crippled_net, lr), hr, net.size.scale))
    return {cripple: {name: float(np.mean(values)) for name, values in row.items()} for cripple, row in scores.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True, help="written by train.py")
    parser.add_argument("--val", required=True, help="folders of pictures or clips, comma-separated")
    args = parser.parse_args()
    net, _ = load_network(args.checkpoint)
    scores = worth(net.eval(), examples(args.val.split(","), net.size.scale))
    names = list(scores["whole"])
    print("| | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
    for cripple, row in scores.items():
        print(f"| {cripple} | " + " | ".join(f"{row[name]:.3f}" for name in names) + " |")


if __name__ == "__main__":
    main()
