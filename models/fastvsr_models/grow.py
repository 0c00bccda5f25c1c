"""Growing: a larger network that starts as a trained smaller one, so that no training is lost (Net2Net, arXiv 1511.05641).

`python -m fastvsr_models.grow --checkpoint compact-s.pt --network compact-m --out compact-m.pt`, then train with --init.

The small network's channels become the first of the large one's. New channels are computed from the start, but what was
there does not read them yet, and new residual blocks add nothing yet: both networks give the same frames, to rounding.
"""

import argparse

import torch

from .networks import FastVSR

# Convolutions on several tensors side by side: features and state, the four copies before conv_out.
SIDE_BY_SIDE = {"unet.conv_in.weight": 2, "decoder.recur.weight": 2, "decoder.conv_out.weight": 4}


def grow_weight(small, large):
    """Put `small` into the first channels of `large`, and keep its outputs from reading what is new."""
    outs, ins = small.shape[:2]
    large[:outs] = 0
    large[:outs, :ins] = small


@torch.no_grad()
def grow(small, large):
    """Make the FastVSR network `large` compute what `small` computes."""
    target = large.state_dict()
    source = small.state_dict()
    for name, weight in target.items():
        if name not in source:
            # A residual block that the small network lacks.
            if ".conv2." in name:
                weight.zero_()
        elif weight.dim() == 1:
            weight.zero_()
            weight[: len(source[name])] = source[name]
        else:
            parts = SIDE_BY_SIDE.get(name, 1)
            for old, part in zip(source[name].chunk(parts, 1), weight.chunk(parts, 1), strict=True):
                grow_weight(old, part)
    return large


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True, help="of the smaller network, written by train.py")
    parser.add_argument("--network", default="compact-m", help="name of the larger one")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    checkpoint = torch.load(args.checkpoint, map_location="cpu", weights_only=True)
    small = FastVSR(checkpoint["network"])
    small.load_state_dict(checkpoint["ema"])
    torch.manual_seed(0)
    large = grow(small, FastVSR(args.network))
    torch.save({"network": args.network, "ema": large.state_dict()}, args.out)
