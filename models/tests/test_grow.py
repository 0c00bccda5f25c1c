import torch

from fastvsr_models.grow import grow
from fastvsr_models.networks import FastVSR


def test_the_grown_network_gives_the_same_frames_and_can_learn_more():
    torch.manual_seed(0)
    small, large = FastVSR("compact-s"), FastVSR("compact-m")
    frames = torch.rand(1, 3, 3, 16, 24)
    with torch.no_grad():
        expected = small(frames)
        assert (large(frames) - expected).abs().max() > 1e-2
        grow(small, large)
        assert (large(frames) - expected).abs().max() < 1e-4
    large(frames).square().mean().backward()
    new_inputs = large.decoder.trunk[0].conv1.weight.grad[:, small.size.trunk :]
    assert new_inputs.abs().max() > 0
