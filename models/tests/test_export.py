import hashlib
import tomllib
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import random_network

from fastvsr_models.degrade import degrade
from fastvsr_models.export import halos, mix
from fastvsr_models.macs import count_package
from fastvsr_models.metrics import psnr_y
from fastvsr_models.networks import SIZES
from fastvsr_models.upscalers import Package, bicubic

SHIPPED = [p for p in sorted(Path(__file__).parents[1].glob("compact-*")) if (p / "model.toml").exists()]


def draw_clip(frames=8, height=192, width=256):
    """Letters, lines and discs that move: edges as pictures have them, uint8 [T, H, W, 3]."""
    clip = []
    for t in range(frames):
        canvas = np.full((2 * height, 2 * width, 3), (60, 90, 120), np.uint8)
        for i in range(8):
            colour = tuple(int(c) for c in np.random.default_rng(i).integers(0, 256, 3))
            cv2.circle(canvas, (60 * i + 6 * t, 50 + 40 * (i % 5) + 2 * t), 20 + 4 * i, colour, -1, cv2.LINE_AA)
            cv2.line(canvas, (0, 60 * i + 4 * t), (2 * width, 30 * i - 4 * t + 90), colour[::-1], 3, cv2.LINE_AA)
            cv2.putText(canvas, "fastvsr 4096", (10 + 5 * t, 40 + 46 * i), 0, 1.1, colour, 2, cv2.LINE_AA)
        clip.append(cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA))
    return np.stack(clip)


def whole_clip(net, frames):
    """The PyTorch forward of a uint8 clip [T, H, W, 3], padded as the element pads, before rounding, in 8-bit levels."""
    (height, width), multiple, scale = frames.shape[1:3], 2 * net.size.stride, net.size.scale
    padded = np.pad(frames, ((0, 0), (0, -height % multiple), (0, -width % multiple), (0, 0)), "edge")
    with torch.no_grad():
        out = net(torch.from_numpy(padded).permute(0, 3, 1, 2).float() / 255)
    return out.permute(0, 2, 3, 1).numpy()[:, : scale * height, : scale * width] * 255


def assert_same_picture(result, levels):
    """Equal up to 1e-3 of full scale before rounding, and as good as always after it."""
    exact = np.clip(levels, 0, 255)
    assert np.abs(result - exact).max() <= 0.5 + 0.255
    assert (result != np.floor(exact + 0.5)).sum() <= max(2, 1e-3 * result.size)


@pytest.mark.parametrize("window", [1, 2, 5, 6])
def test_streaming_equals_the_whole_clip_for_any_window(exact, clip, window):
    net, folder = exact
    lr = clip[:, :24, :40]
    assert_same_picture(Package(folder, window=window)(lr), whole_clip(net, lr))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 9), (16, 8), (23, 41)])
def test_any_size_through_padding(exact, clip, height, width):
    net, folder = exact
    lr = clip[:2, :height, :width]
    result = Package(folder)(lr)
    assert result.shape == (2, net.size.scale * height, net.size.scale * width, 3)
    assert_same_picture(result, whole_clip(net, lr))


def test_stages_agree_within_a_thousandth(exact):
    net, folder = exact
    latent = torch.rand(1, net.size.latent, 6, 8)
    session = onnxruntime.InferenceSession(folder / "unet.onnx", providers=["CPUExecutionProvider"])
    result = session.run(["denoised"], {"latent": latent.numpy()})[0]
    with torch.no_grad():
        np.testing.assert_allclose(result, net.unet(latent).numpy(), atol=1e-3)


def test_half_precision_storage_moves_no_pixel_by_more_than_a_level(exported, clip):
    net, folder = exported
    lr = clip[:3, :24, :40]
    assert np.abs(Package(folder)(lr) - np.clip(whole_clip(net, lr), 0, 255)).max() <= 1.5


def test_manifest_describes_the_graphs(exported):
    net, folder = exported
    manifest = tomllib.loads((folder / "model.toml").read_text())
    assert manifest["format"] == 1
    memory = manifest["geometry"].pop("memory")
    assert memory >= 0
    size = net.size
    strides = {"encoder-stride": 8, "decoder-stride": 16, "multiple": 2 * size.stride}
    assert manifest["geometry"] == {"scale": size.scale} | strides
    for stage in manifest["stages"].values():
        assert stage["halo"] % (2 * size.stride) == 0
        assert 8 <= stage["halo"] <= 64
        assert hashlib.sha256((folder / stage["file"]).read_bytes()).hexdigest() == stage["sha256"]
        assert "state" not in stage


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_mixed_weights_lie_between_those_of_two_networks(share):
    net, one, other = random_network("compact-xs", 1), random_network("compact-xs", 1), random_network("compact-xs", 2)
    mix(net, other, share)
    for mixed, a, b in zip(net.parameters(), one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mixed, (1 - share) * a + share * b)


@pytest.mark.parametrize(("name", "encoder", "unet"), [("compact-s", 16, 32), ("compact-x2", 32, 64)])
def test_halos_are_those_of_the_layers_whatever_the_weights(name, encoder, unet):
    net = random_network(name)
    net.unet.mid.conv1.bias.data.fill_(-100)
    assert halos(net) == {"encoder": encoder, "unet": unet, "decoder": 16}


def test_graphs_load_in_old_runtimes_and_are_clean(exported):
    _, folder = exported
    for path in folder.glob("*.onnx"):
        model = onnx.load(path)
        assert model.ir_version <= 8
        assert max(o.version for o in model.opset_import) <= 17
        assert {t.data_type for t in model.graph.initializer if np.prod(t.dims) >= 16} == {onnx.TensorProto.FLOAT16}
        kinds = [n.op_type for n in model.graph.node]
        assert kinds.count("Transpose") <= 4
        assert set(kinds) <= {
            "Add",
            "Cast",
            "Clip",
            "Conv",
            "ConvTranspose",
            "DepthToSpace",
            "Mul",
            "Pad",
            "Relu",
            "Slice",
            "Transpose",
        }


def test_work_stays_in_the_budget(exported):
    net, folder = exported
    budget = net.size.mac
    assert 0.5 * budget < sum(count_package(folder).values()) <= budget


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda p: p.name)
def test_shipped_package_is_whole_and_better_than_bicubic(folder):
    manifest = tomllib.loads((folder / "model.toml").read_text())
    assert manifest["name"] == folder.name
    size = SIZES[folder.name.removesuffix("-clean")]
    assert sum(count_package(folder).values()) <= size.mac
    assert manifest["geometry"]["scale"] == size.scale
    for stage in manifest["stages"].values():
        assert hashlib.sha256((folder / stage["file"]).read_bytes()).hexdigest() == stage["sha256"]
    hr = draw_clip()
    for recipe, gain in (("bi", 1.0), ("bi+crf28", 0.2))[: 1 if folder.name.endswith("-clean") else 2]:
        lr = degrade(hr, recipe, scale=size.scale)
        assert psnr_y(Package(folder)(lr), hr, size.scale) > psnr_y(bicubic(lr, size.scale), hr, size.scale) + gain


@pytest.mark.parametrize("provider", ["openvino", "openvino-bf16"])
def test_openvino_agrees(exported, clip, provider):
    if "OpenVINOExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has no OpenVINO provider")
    _, folder = exported
    lr = clip[:3, :24, :40]
    difference = np.abs(Package(folder, provider)(lr).astype(int) - Package(folder)(lr))
    assert difference.max() <= (1 if provider == "openvino" else 24)
    assert difference.mean() < 1
