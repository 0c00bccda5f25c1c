import os
from pathlib import Path

import numpy as np
import pytest
import torch

from fastvsr_models.export import export_package
from fastvsr_models.networks import SIZES, FastVSR


def make_clip(frames=6, height=96, width=128, seed=0):
    """A moving clip with edges, gradients and texture, uint8 [T, H, W, 3]."""
    rng = np.random.default_rng(seed)
    texture = rng.integers(0, 256, (height + 64, width + 64, 3))
    y, x = np.mgrid[: height + 64, : width + 64]
    smooth = np.stack([127 + 120 * np.sin(x / 9 + c) * np.cos(y / 7) for c in range(3)], -1)
    scene = np.where(((x // 16 + y // 16) % 2 == 0)[..., None], smooth, 0.3 * texture + 0.7 * smooth)
    return np.stack([scene[t : t + height, 2 * t : 2 * t + width] for t in range(frames)]).astype(np.uint8)


def random_network(name, seed=0):
    """A network whose every layer matters: larger output weights and biases than at the start of training."""
    torch.manual_seed(seed)
    net = FastVSR(name).eval().requires_grad_(False)
    for key, value in net.named_parameters():
        if key.endswith("bias"):
            value.normal_(0, 0.05)
    for layer in (net.decoder.gain, net.decoder.shift, net.decoder.conv_out):
        layer.weight.mul_(5)
    return net


@pytest.fixture(scope="session")
def clip():
    return make_clip()


def package(name, half, tmp_path_factory):
    net, folder = random_network(name), tmp_path_factory.mktemp(name)
    export_package(net, name, folder, "test", half)
    return net, folder


@pytest.fixture(scope="session", params=list(SIZES))
def exported(request, tmp_path_factory):
    """(network, package folder) of every size, random weights."""
    return package(request.param, True, tmp_path_factory)


@pytest.fixture(scope="session", params=list(SIZES))
def exact(request, tmp_path_factory):
    """The same with weights stored in single precision, so that only the graphs can differ."""
    return package(request.param, False, tmp_path_factory)


@pytest.fixture(scope="session")
def plugin_path():
    """Folder of the built plugin: GST_PLUGIN_PATH, or target/release, or target/debug."""
    target = Path(__file__).parents[2] / "target"
    named = os.environ.get("GST_PLUGIN_PATH", "").split(os.pathsep)
    for folder in [*filter(None, named), target / "release", target / "debug"]:
        if Path(folder, "libgstfastvsr.so").exists():
            return folder
    pytest.skip("the plugin is not built: run `cargo build`, or set GST_PLUGIN_PATH")
