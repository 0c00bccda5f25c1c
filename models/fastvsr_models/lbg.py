"""Lower-bound-guided training (arXiv 2509.24142): two VAEs instead of a discriminator.

A VAE's free energy bounds the negative log-likelihood from above:

    F(x) = |x - D(z)|^2 / s + beta KL(q(z|x) || N(0, 1)),  z ~ q(z|x)         F(x) >= -log p(x) + const

The frozen reference VAE models real frames. The lower-bound VAE starts as its copy and is trained, alternately with the
decoder, on the decoder's output: it tracks the distribution of what the decoder makes now. The decoder minimises

    F_ref(x) - F_lb(x)  ~  log p_fake(x) - log p_real(x)

so it moves to where frames are likelier among real ones than among its own. Where the paper is silent we chose: the copy as
the start, H(.) of its equation 8 the identity, one noise sample shared by both VAEs, so that the difference has little variance.
"""

import copy

import torch


def free_energy(vae, image, noise, beta):
    """Mean over the batch, per value of the image: [N, 3, Y, X] in 0..1 -> scalar. `noise` is standard normal, latent-shaped."""
    mean, logvar = vae.encode(image)
    reconstruction = vae.decode(mean + (0.5 * logvar).exp() * noise)
    error = (reconstruction - image).square().mean()
    divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum() / image.numel()
    return error + beta * divergence


class LowerBoundGuidance:
    """The pair of judges. Call `loss` for the decoder's step, then `track` once for the lower-bound VAE's."""

    def __init__(self, reference, beta, rate):
        self.reference = reference.eval().requires_grad_(False)
        self.lower = copy.deepcopy(reference).train().requires_grad_(True)
        self.optimizer = torch.optim.AdamW(self.lower.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=0)
        self.beta = beta

    def noise_for(self, image):
        shape = (len(image), self.reference.size.latent, image.shape[2] // 8, image.shape[3] // 8)
        return torch.randn(shape, device=image.device)

    def loss(self, fake):
        """F_ref - F_lb of the decoder's output, with a gradient to the output only."""
        noise = self.noise_for(fake)
        self.lower.requires_grad_(False)
        difference = free_energy(self.reference, fake, noise, self.beta) - free_energy(self.lower, fake, noise, self.beta)
        self.lower.requires_grad_(True)
        return difference

    def track(self, fake, real=None):
        """One step of the lower-bound VAE on the decoder's output alone, whatever is real; returns its free energy."""
        fake = fake.detach()
        energy = free_energy(self.lower, fake, self.noise_for(fake), self.beta)
        self.optimizer.zero_grad(set_to_none=True)
        energy.backward()
        self.optimizer.step()
        return energy.item()

    def state_dict(self):
        return {"lower": self.lower.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state):
        self.lower.load_state_dict(state["lower"])
        self.optimizer.load_state_dict(state["optimizer"])
