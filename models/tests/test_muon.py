"""The optimizer: its directions, the size of its steps, and what they find."""

import pytest
import torch

from fastvsr_models.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(2, 16, 144), (1, 48, 16), (3, 8, 8)])
def test_singular_values_become_about_one(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 1e-3
    values = torch.linalg.svdvals(orthogonal(matrices))
    assert values.min() > 0.6
    assert values.max() < 1.3
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    assert (orthogonal(matrices) * (left @ right)).sum((1, 2)).min() > 0.8 * min(shape[1:])


def test_a_step_has_the_size_of_its_rate_whatever_the_gradient():
    for scale in (1e-6, 1e3):
        weights = [torch.nn.Parameter(torch.zeros(16, 4, 3, 3)) for _ in range(2)]
        for weight in weights:
            weight.grad = scale * torch.randn(weight.shape)
        Muon(weights, torch.tensor(0.1)).step()
        for weight in weights:
            assert weight.detach().square().mean().sqrt().item() == pytest.approx(0.2 * 0.1, rel=0.25)


def test_weights_without_gradient_stay():
    used, unused = (torch.nn.Parameter(torch.ones(4, 4, 3, 3)) for _ in range(2))
    used.grad = torch.randn(used.shape)
    Muon([used, unused], torch.tensor(0.1)).step()
    assert (unused == 1).all()
    assert not (used == 1).any()


def test_directions_that_few_gradients_point_to_are_learnt_too():
    target = torch.diag(torch.tensor([1.0, 1e-3, 1e-3, 1e-3]))
    weight, rate = torch.nn.Parameter(torch.zeros(4, 4)), torch.tensor(0.0)
    optimizer = Muon([weight], rate)
    for step in range(200):
        rate.fill_(0.2 * (1 - step / 200))
        # The last three inputs are a thousand times as weak, so are their gradients.
        weight.grad = (weight.detach() - torch.eye(4)) @ target
        optimizer.step()
    assert (weight - torch.eye(4)).abs().max() < 0.1
