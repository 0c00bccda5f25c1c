import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import random_network

from fastvsr_models.baselines import export_baselines
from fastvsr_models.export import export_package
from fastvsr_models.macs import count_package
from fastvsr_models.networks import centred, pad_edges, upscaled
from fastvsr_models.upscalers import Package


@pytest.fixture(scope="module")
def baselines(tmp_path_factory):
    """(network, folder of its baselines and of its own package, `ours`), weights as half precision holds them."""
    net, folder = random_network("compact-s"), tmp_path_factory.mktemp("baselines")
    net.unet.conv_out.weight.mul_(0.05)  # small steps, or 50 of a random network are chaos
    net = net.half().float()
    export_baselines(net, folder)
    export_package(net, "ours", folder / "ours", "test")
    return net, folder


def symmetric(net, clip, steps):
    """The f8 pipeline in PyTorch: 8-bit levels [T, 4H, 4W, 3] before rounding."""
    frames = torch.from_numpy(clip).permute(0, 3, 1, 2).float() / 255
    x2, x4 = (F.interpolate(frames, scale_factor=s, mode="bilinear") for s in (2, 4))
    with torch.no_grad():
        latent = net.encoder.after_stem(net.encoder.stem(centred(F.pixel_unshuffle(pad_edges(x4, 2), 2))))
        for _ in range(steps):
            latent = net.unet(latent)
        correction = net.decoder.conv_out(F.relu(net.decoder.up(net.decoder.on_frames(latent, x2))))
        return 255 * (correction + upscaled(frames, 4)).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize(("name", "steps"), [("f8-one-step", 1), ("f8-50-steps", 50)])
def test_f8_packages_are_the_symmetric_pipeline(baselines, clip, name, steps):
    net, folder = baselines
    lr = clip[:3, :24, :40]
    expected = np.clip(symmetric(net, lr, steps), 0, 255)
    assert np.ptp(expected) > 100
    assert np.abs(Package(folder / name)(lr) - expected).max() <= 1.5


def test_folding_changes_no_pixel(baselines, clip):
    _, folder = baselines
    lr = clip[:3, :24, :40]
    ours, copied, folded = (Package(folder / name)(lr).astype(int) for name in ("ours", "copy", "copy-folded"))
    assert np.abs(ours - copied).max() <= 1
    assert np.abs(folded - copied).max() <= 1
    assert (ours != copied).mean() < 0.02


def test_the_unconditioned_decoder_sees_no_frame(baselines):
    _, folder = baselines
    inputs = [i.name for i in Package(folder / "unconditioned").stages[-1][0].get_inputs()]
    assert inputs == ["denoised"]


def test_work(baselines):
    _, folder = baselines
    ours, f8, f8_50 = (count_package(folder / name) for name in ("ours", "f8-one-step", "f8-50-steps"))
    assert f8["unet"] == pytest.approx(4 * ours["unet"])
    assert f8_50["unet"] == pytest.approx(50 * f8["unet"])
    assert 3.5 < sum(f8.values()) / sum(ours.values()) < 4.1
    assert count_package(folder / "copy")["decoder"] >= ours["decoder"] > count_package(folder / "copy-folded")["decoder"]
