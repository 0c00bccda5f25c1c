import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import random_network

from fastvsr_models.degrade import resize_bicubic
from fastvsr_models.networks import (
    SIZES,
    Down,
    Plain,
    Up,
    bicubic_filter,
    bilinear_filter,
    fold_copy,
    fold_shuffle,
    from_lr_grid,
    pad_edges,
    to_lr_grid,
    upscaled,
)


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("scale", [2, 4])
def test_upscaling_by_convolution_is_bilinear(scale):
    x = torch.rand(1, 3, 9, 11)
    expected = F.interpolate(x, scale_factor=scale, mode="bilinear")
    torch.testing.assert_close(F.pixel_shuffle(F.conv2d(pad_edges(x, 1), bilinear_filter(scale)), scale), expected)


@pytest.mark.parametrize("scale", [2, 4])
def test_skip_is_bicubic_with_weights_of_eight_bits(scale, clip):
    weight = bicubic_filter(scale)
    assert torch.equal(weight.sum((2, 3)), torch.ones(scale, scale))
    assert torch.equal(weight, (256 * weight).round() / 256)
    assert torch.equal(weight.bfloat16().float(), weight)
    frames = torch.from_numpy(clip[:1]).permute(0, 3, 1, 2).float()
    ours = upscaled(frames, scale).permute(0, 2, 3, 1).numpy()
    exact = resize_bicubic(clip[:1], scale * clip.shape[1], scale * clip.shape[2])
    assert np.abs(np.clip(ours, 0, 255) - exact).max() < 3
    assert np.abs(np.clip(ours, 0, 255) - exact).mean() < 0.5


def test_upscaled_pixels_are_exact_in_bfloat16():
    x = torch.randint(0, 256, (1, 3, 8, 8)).float()
    for scale in (2, 4):
        assert torch.equal(upscaled(x.bfloat16().float(), scale), upscaled(x.double(), scale).float())


def test_copy_and_shuffle_fold_exactly():
    weight, bias = torch.randn(1, 32, 3, 3).double(), torch.randn(1).double()
    features = torch.randn(2, 32, 6, 7).double()
    paper = F.conv2d(F.pixel_shuffle(features, 2).repeat(1, 4, 1, 1), weight, bias, padding=1)
    without_copy = F.conv2d(F.pixel_shuffle(features, 2), fold_copy(weight), bias, padding=1)
    folded = F.pixel_shuffle(F.conv2d(features, fold_shuffle(fold_copy(weight)), bias.repeat_interleave(4), padding=1), 2)
    torch.testing.assert_close(without_copy, paper, rtol=0, atol=1e-12)
    torch.testing.assert_close(folded, paper, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SIZES)
def test_training_form_is_the_papers_form(name):
    net = random_network(name).double()
    x = torch.rand(1, net.size.trunk, 6, 9).double()
    at_lr = from_lr_grid(net.decoder.correction_at_lr(x), net.size.scale)
    torch.testing.assert_close(at_lr, net.decoder.correction(x), rtol=0, atol=1e-12)
    picture = torch.rand(1, 3, 16, 24)
    assert torch.equal(from_lr_grid(to_lr_grid(picture, net.size.scale), net.size.scale), picture)


@pytest.mark.parametrize("name", SIZES)
def test_luma_alone_is_corrected(name):
    net, frames = random_network(name), torch.rand(2, 3, 32, 48)
    change = net(frames) - upscaled(frames, net.size.scale)
    assert change.abs().max() > 0.01
    torch.testing.assert_close(change, change[:, :1].expand_as(change), rtol=0, atol=1e-5)


def test_changes_of_grid_and_trunk_start_as_shortcuts():
    up, x = Up(64, 32), torch.rand(1, 64, 4, 4)
    shortcut = F.pixel_shuffle(x.repeat_interleave(2, 1), 2)
    assert F.cosine_similarity(up(x).flatten(), shortcut.flatten(), 0) > 0.9
    down, x = Down(16, 32), torch.rand(1, 16, 8, 8)
    shortcut = F.pixel_unshuffle(x, 2).unflatten(1, (32, 2)).mean(2)
    assert F.cosine_similarity(down(x).flatten(), shortcut.flatten(), 0) > 0.9
    plain, x = Plain(32), torch.rand(1, 32, 8, 8)
    assert F.cosine_similarity(plain(x).flatten(), x.flatten(), 0) > 0.8


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_up_is_a_transposed_convolution(factor):
    up, x = Up(48, 32, factor), torch.rand(2, 48, 5, 3)
    up.bias.normal_()
    torch.testing.assert_close(up.as_transposed()(x), up(x))


@pytest.mark.parametrize("name", SIZES)
def test_gradient_reaches_every_parameter(name):
    with torch.enable_grad():
        net = random_network(name).requires_grad_(True)
        net(torch.rand(2, 3, 32, 32)).square().mean().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_latent_scales_the_trunk():
    net = random_network("compact-s")
    frame = torch.rand(1, 3, 16, 16)
    one, other = (net.decoder.on_frames(torch.full((1, 32, 4, 4), level), frame) for level in (0.0, 3.0))
    assert (one - other).abs().max() > 1e-2
