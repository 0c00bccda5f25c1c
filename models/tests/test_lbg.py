import pytest
import torch

from fastvsr_models.lbg import LowerBoundGuidance, free_energy
from fastvsr_models.networks import VAE

BETA = 1e-4


@pytest.fixture
def guidance():
    torch.manual_seed(0)
    return LowerBoundGuidance(VAE("compact-s"), BETA, rate=1e-3)


def test_vae_shapes():
    vae, image = VAE("compact-s"), torch.rand(2, 3, 32, 48)
    mean, logvar = vae.encode(image)
    assert mean.shape == logvar.shape == (2, 64, 4, 6)
    assert vae.decode(mean).shape == image.shape


def test_free_energy_is_reconstruction_error_plus_divergence():
    vae, image = VAE("compact-s"), torch.rand(1, 3, 16, 16)
    noise = torch.zeros(1, 64, 2, 2)
    mean, logvar = vae.encode(image)
    error = (vae.decode(mean) - image).square().mean()
    posterior = torch.distributions.Normal(mean, (0.5 * logvar).exp())
    divergence = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum() / image.numel()
    torch.testing.assert_close(free_energy(vae, image, noise, BETA), error + BETA * divergence)


def test_no_guidance_at_the_start_as_the_judges_are_the_same(guidance):
    fake = torch.rand(2, 3, 32, 32, requires_grad=True)
    loss = guidance.loss(fake)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert fake.grad.abs().max() < 1e-7


def test_lower_bound_tracks_the_output_and_the_reference_stays(guidance):
    before = [p.clone() for p in guidance.reference.parameters()]
    fake = torch.rand(1, 3, 32, 32).repeat(4, 1, 1, 1)
    energies = [guidance.track(fake) for _ in range(60)]
    assert energies[-1] < 0.8 * energies[0]
    assert all(torch.equal(a, b) for a, b in zip(before, guidance.reference.parameters(), strict=True))
    image = fake.clone().requires_grad_(True)
    loss = guidance.loss(image)
    assert loss.item() > 0
    loss.backward()
    assert image.grad.any()
    assert not any(p.grad is not None for p in guidance.reference.parameters())
