import sys

import pytest
import torch
from conftest import make_clip, random_network

from fastvsr_models import ablations
from fastvsr_models.data import build_cache
from fastvsr_models.metrics import write_y4m
from fastvsr_models.variants import Adversary, Variant

CONFIG = """
stage = "joint"
network = "compact-s"
[data]
frames = 2
crop = 16
batch = 1
kinds = { bi = 1.0 }
[optim]
rate = 1e-3
warmup = 1
steps = 2
decay = 1
ema = 0.9
"""


def variant(**options):
    """A variant with random weights; the condition of f32 has its own shape."""
    net, weights = Variant(**options).eval().requires_grad_(False), random_network("compact-s").state_dict()
    net.load_state_dict({k: v for k, v in weights.items() if v.shape == net.state_dict()[k].shape}, strict=False)
    return net


def test_without_a_change_it_is_fastvsr():
    net, frames = random_network("compact-s"), torch.rand(1, 3, 3, 16, 24)
    with torch.no_grad():
        for at_lr in (False, True):
            torch.testing.assert_close(variant()(frames, at_lr=at_lr), net(frames, at_lr=at_lr), rtol=0, atol=1e-5)


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_every_stride_upscales_four_times(stride):
    net, frames = variant(stride=stride), torch.rand(2, 2, 3, 32, 48)
    assert net.encode(frames[:, 0]).shape[-2:] == (128 // stride, 192 // stride)
    out = net(frames)
    assert out.shape == (2, 2, 3, 128, 192)
    assert (out - net(frames.flip(1)).flip(1)).abs().max() > 1e-3  # it remembers


def test_work_follows_the_stride():
    f8, f16, f32 = (ablations.kmacs(Variant(stride=stride)) for stride in (8, 16, 32))
    assert f8 / f16 > 3
    assert f16 / f32 > 2


def test_without_memory_frames_do_not_know_one_another():
    frames = torch.rand(1, 3, 3, 16, 24)
    net = variant(memory=())
    torch.testing.assert_close(net(frames), net(frames.flip(1)).flip(1))
    one, other = (variant(memory=memory)(frames) for memory in (("latent",), ("lr",)))
    torch.testing.assert_close(one[:, 0], other[:, 0])
    assert (one[:, 2] - other[:, 2]).abs().max() > 1e-3


def test_without_condition_the_latent_is_all():
    net = variant(condition=False)
    latent = net.encode(torch.rand(1, 3, 16, 24))[None]
    assert torch.equal(net.decode(latent, torch.rand(1, 1, 3, 16, 24)), net.decode(latent, torch.rand(1, 1, 3, 16, 24)))


def test_latent_noise_is_for_training():
    net, latent = variant(latent_noise=0.1), torch.rand(1, 1, 64, 4, 6)
    assert (net.denoise(latent) - net.denoise(latent)).std() > 0.1
    with torch.no_grad():
        assert torch.equal(net.denoise(latent), net.denoise(latent))


def test_adversary_learns_to_tell():
    torch.manual_seed(0)
    adversary, real, fake = Adversary(1e-3, "cpu"), torch.rand(2, 3, 32, 32), torch.full((2, 3, 32, 32), 0.5, requires_grad=True)
    first = adversary.track(fake, real)
    for _ in range(20):
        last = adversary.track(fake, real)
    assert last < first
    adversary.loss(fake).backward()
    assert fake.grad.abs().sum() > 0
    assert all(p.grad is not None for p in adversary.net.parameters())


def test_one_command_trains_and_tells(tmp_path, monkeypatch, capsys):
    write_y4m(make_clip(4, 128, 128), tmp_path / "clip.y4m")
    build_cache(tmp_path, tmp_path / "cache")
    (tmp_path / "config.toml").write_text(CONFIG)
    options = f"--cache {tmp_path}/cache --val {tmp_path} --out {tmp_path}/runs --config {tmp_path}/config.toml --threads 1"
    monkeypatch.setattr(sys, "argv", ["ablations", *options.split(), "--only", "f8-f32,adversarial"])
    ablations.main()
    table = (tmp_path / "runs/table.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in table[2:]] == ["| f8-f32, all of x4 in the decoder", "| adversarial"]
    assert all(line.split(" | ")[2] == "2" for line in table[2:])
    assert ablations.network(tmp_path / "runs/f8-f32/checkpoint.pt").stride == 32
    monkeypatch.setattr(sys, "argv", ["ablations", *options.split(), "--only", "f4-f8"])
    with pytest.raises(SystemExit, match="unknown variants f4-f8; known: f8-f16"):
        ablations.main()
