"""Quality measures on uint8 RGB clips [T, H, W, 3], the result against the original."""

import numpy as np


def luma(clip):
    """BT.601 Y in 8-bit limited range, from RGB, in float: what the super-resolution literature compares."""
    return 16 + clip.astype(np.float32) @ (np.float32([65.481, 128.553, 24.966]) / 255)


def psnr_y(clip, reference, border=4):
    """Mean over frames of the Y-PSNR in dB, `border` pixels left out on each side (the scale, as the literature does)."""
    inner = slice(border, -border)
    error = (luma(clip) - luma(reference))[:, inner, inner]
    return float(np.mean(10 * np.log10(255**2 / np.maximum(np.square(error).mean((1, 2)), 1e-8))))
