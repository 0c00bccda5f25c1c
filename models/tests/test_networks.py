import pytest
import torch
import torch.nn.functional as F
from conftest import random_network

from fastvsr_models.networks import (
    SIZES,
    Decoder,
    Down,
    FastVSR,
    Up,
    fold_copy,
    fold_shuffle,
    from_lr_grid,
    pad_edges,
    to_lr_grid,
    upscale_unshuffled,
)


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("scale", [2, 4])
def test_upscaling_by_convolution_is_bilinear(scale):
    x = torch.rand(1, 3, 9, 11)
    expected = F.interpolate(x, scale_factor=scale, mode="bilinear")
    torch.testing.assert_close(F.pixel_shuffle(upscale_unshuffled(pad_edges(x, 1), scale), scale), expected)


def test_upscaled_pixels_are_exact_in_bfloat16():
    x = pad_edges(torch.randint(0, 256, (1, 3, 8, 8)).float(), 1)
    for scale in (2, 4):
        assert torch.equal(upscale_unshuffled(x.bfloat16().float(), scale), upscale_unshuffled(x.double(), scale).float())


def test_copy_and_shuffle_fold_exactly():
    weight, bias = torch.randn(3, 32, 3, 3).double(), torch.randn(3).double()
    features = torch.randn(2, 32, 6, 7).double()
    paper = F.conv2d(F.pixel_shuffle(features, 2).repeat(1, 4, 1, 1), weight, bias, padding=1)
    without_copy = F.conv2d(F.pixel_shuffle(features, 2), fold_copy(weight), bias, padding=1)
    folded = F.pixel_shuffle(F.conv2d(features, fold_shuffle(fold_copy(weight)), bias.repeat_interleave(4), padding=1), 2)
    torch.testing.assert_close(without_copy, paper, rtol=0, atol=1e-12)
    torch.testing.assert_close(folded, paper, rtol=0, atol=1e-12)


def test_training_form_is_the_papers_form():
    net, frames = random_network("compact-s").double(), torch.rand(1, 2, 3, 16, 24).double()
    torch.testing.assert_close(from_lr_grid(net(frames, at_lr=True)), net(frames), rtol=0, atol=1e-12)
    picture = torch.rand(1, 3, 16, 24)
    assert torch.equal(from_lr_grid(to_lr_grid(picture)), picture)


def test_f16_decoder_takes_every_weight_of_the_f8_decoder():
    size = SIZES["compact-s"]
    f8, f16 = Decoder(size, stride=8), Decoder(size, stride=16)
    f16.load_state_dict(f8.state_dict())
    latent, frames, state = torch.rand(1, 64, 4, 6), torch.rand(1, 3, 16, 24), torch.zeros(1, 32, 16, 24)
    assert f8(latent, frames, state)[0].shape == (1, 3, 32, 48)
    assert f16(latent, frames, state)[0].shape == (1, 3, 64, 96)


def test_changes_of_grid_start_as_shortcuts():
    up, x = Up(64, 32), torch.rand(1, 64, 4, 4)
    shortcut = F.pixel_shuffle(x.repeat_interleave(2, 1), 2)
    assert F.cosine_similarity(up(x).flatten(), shortcut.flatten(), 0) > 0.9
    down, x = Down(16, 32), torch.rand(1, 16, 8, 8)
    shortcut = F.pixel_unshuffle(x, 2).unflatten(1, (32, 2)).mean(2)
    assert F.cosine_similarity(down(x).flatten(), shortcut.flatten(), 0) > 0.9


def test_up_is_a_transposed_convolution():
    up, x = Up(48, 32), torch.rand(2, 48, 5, 3)
    up.bias.normal_()
    torch.testing.assert_close(up.as_transposed()(x), up(x))


def test_causal_and_states_matter():
    net = random_network("compact-s")
    frames = torch.rand(1, 5, 3, 16, 24)
    changed = frames.clone()
    changed[:, 3:] = torch.rand(1, 2, 3, 16, 24)
    one, other = net(frames), net(changed)
    assert torch.equal(one[:, :3], other[:, :3])
    assert (net(frames[:, 2:])[:, 1] - one[:, 3]).abs().max() > 1e-3


def test_state_stays_bounded_on_a_long_stream():
    net = random_network("compact-s")
    for parameter in net.parameters():
        parameter.mul_(1.5)
    latent, state = torch.rand(1, 64, 4, 4), torch.zeros(1, 64, 4, 4)
    for _ in range(300):
        latent_out, state = net.unet(latent, state)
    assert state.abs().max() <= 16
    assert latent_out.isfinite().all()


def test_gradient_reaches_every_parameter():
    with torch.enable_grad():
        net = FastVSR("compact-s")
        net(torch.rand(1, 2, 3, 16, 16)).square().mean().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []
