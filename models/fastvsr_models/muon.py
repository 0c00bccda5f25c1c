"""Muon: the optimizer of all convolutions but the last.

A step goes along the momentum after all its singular values were made about one, so that what few examples ask for is learnt as
fast as what all do (Jordan et al., kellerjordan.github.io/posts/muon). Scaled as in arXiv 2502.16982: an update's mean square is
that of AdamW at the same rate. What it is worth here is in ABLATIONS.md.
"""

import torch

MOMENTUM = 0.95


def orthogonal(matrices):
    """[N, R, C] -> the same with singular values of about one, 0.7 to 1.2: five steps of a Newton-Schulz iteration."""
    x = matrices.mT if matrices.shape[1] > matrices.shape[2] else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (2.0315 * square @ square - 4.7750 * square) @ x
    return x.mT if matrices.shape[1] > matrices.shape[2] else x


class Muon(torch.optim.Optimizer):
    """For weights [out, in, ...]; `rate` is a tensor, so that a CUDA graph follows it. All of one shape are one batch."""

    def __init__(self, weights, rate):
        shapes = {}
        for weight in weights:
            shapes.setdefault(weight.shape, []).append(weight)
        super().__init__([{"params": same} for same in shapes.values()], {"rate": rate})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            grads = torch.stack([weight.grad.flatten(1) for weight in weights])
            for weight in weights:
                if not self.state[weight]:
                    self.state[weight]["momentum"] = torch.zeros_like(grads[0])
            momenta = [self.state[weight]["momentum"] for weight in weights]
            torch._foreach_lerp_(momenta, list(grads), 1 - MOMENTUM)
            ahead = torch.lerp(grads, torch.stack(momenta), MOMENTUM)  # Nesterov's
            change = orthogonal(ahead) * (-0.2 * max(grads.shape[1:]) ** 0.5 * group["rate"])
            for weight, part in zip(weights, change, strict=True):
                weight.add_(part.view_as(weight))
