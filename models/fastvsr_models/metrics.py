"""Quality measures on uint8 RGB clips [T, H, W, 3], the result against the original."""

import json
import re
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import cv2
import imageio_ffmpeg
import numpy as np
import torch

from . import deep
from .degrade import to_yuv420

# RGB -> Cb and Cr of BT.601.
CHROMA = np.float32([[-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]])


def luma(clip):
    """BT.601 Y in 8-bit limited range, from RGB, in float: what the super-resolution literature compares."""
    return 16 + clip.astype(np.float32) @ (np.float32([65.481, 128.553, 24.966]) / 255)


def psnr_y(clip, reference, border=4):
    """Mean over frames of the Y-PSNR in dB, `border` pixels left out on each side (the scale, as the literature does)."""
    inner = slice(border, -border)
    error = (luma(clip) - luma(reference))[:, inner, inner]
    return float(np.mean(10 * np.log10(255**2 / np.maximum(np.square(error).mean((1, 2)), 1e-8))))


def psnr_chroma(clip, reference, border=4):
    """Mean over frames of the PSNR of Cb and of Cr in dB, BT.601 in 8-bit limited range, borders left out as for `psnr_y`."""
    inner = slice(border, -border)
    error = (clip.astype(np.float32) - reference)[:, inner, inner] @ (CHROMA.T / 255)
    return [float(x) for x in np.mean(10 * np.log10(255**2 / np.maximum(np.square(error).mean((1, 2)), 1e-8)), 0)]


def ssim_y(clip, reference, border=4):
    """Mean SSIM of Y, Gaussian window 11, sigma 1.5, valid part only, borders left out as for `psnr_y`."""
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    scores = []
    for x, y in zip(luma(clip), luma(reference), strict=True):
        x, y = (p[border:-border, border:-border] for p in (x, y))
        mean = [cv2.GaussianBlur(p, (11, 11), 1.5)[5:-5, 5:-5] for p in (x, y, x * x, y * y, x * y)]
        mx, my, xx, yy, xy = mean
        score = (2 * mx * my + c1) * (2 * (xy - mx * my) + c2)
        scores.append((score / ((mx**2 + my**2 + c1) * (xx - mx**2 + yy - my**2 + c2))).mean())
    return float(np.mean(scores))


def write_y4m(clip, path):
    height, width = clip.shape[1:3]
    with open(path, "wb") as file:
        file.write(f"YUV4MPEG2 W{width} H{height} F25:1 Ip A1:1 C420mpeg2\n".encode())
        for frame in clip:
            file.write(b"FRAME\n" + to_yuv420(frame).tobytes())


def vmaf_neg_and_xpsnr(clip, reference):
    """VMAF v0.6.1-NEG (mean over frames) and XPSNR of Y in dB, by the ffmpeg that imageio-ffmpeg brings."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "vmaf.json")
        write_y4m(clip, f"{folder}/a.y4m")
        write_y4m(reference, f"{folder}/b.y4m")
        graph = (
            "[0:v]split[a0][a1];[1:v]split[b0][b1];"
            f"[a0][b0]libvmaf=model=version=vmaf_v0.6.1neg:log_fmt=json:log_path={log}:n_threads=1[v];[a1][b1]xpsnr[x]"
        )
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostats"]
        command += ["-i", f"{folder}/a.y4m", "-i", f"{folder}/b.y4m", "-filter_complex", graph]
        command += ["-map", "[v]", "-f", "null", "-", "-map", "[x]", "-f", "null", "-"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        vmaf = json.loads(log.read_text())["pooled_metrics"]["vmaf"]["mean"]
    return vmaf, float(re.findall(r"XPSNR\s+y:\s*([\d.]+|inf)", done.stderr)[-1])


def flow(a, b):
    """Dense optical flow from grey frame a to b, [H, W, 2] in pixels."""
    return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(a, b, None)


def temporal(clip, reference):
    """Three temporal errors, each a mean over pixels and frame pairs; of a single frame none.

    tof: |flow of the result - flow of the original|, pixels (TecoGAN).
    warp: 1000 x squared difference of frame t and frame t-1 moved onto it by the original's flow, values in 0..1,
          where the original itself follows its flow (E*warp).
    flicker: |frame difference of the result - frame difference of the original|, 8-bit levels.
    """
    if len(clip) == 1:
        return {}
    x, y = (np.stack([cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in c]) for c in (clip, reference))
    grid = np.stack(np.meshgrid(np.arange(x.shape[2]), np.arange(x.shape[1])), -1).astype(np.float32)
    tof, warp, flicker = [], [], []
    for t in range(1, len(x)):
        motion = flow(y[t], y[t - 1])
        tof.append(np.linalg.norm(flow(x[t], x[t - 1]) - motion, axis=-1).mean())
        moved, truth = (cv2.remap(c[t - 1], grid + motion, None, cv2.INTER_LINEAR).astype(np.float32) for c in (x, y))
        seen = np.abs(truth - y[t]) < 10
        warp.append(1000 * np.square((moved - x[t])[seen] / 255).mean())
        steps = [c[t].astype(np.float32) - c[t - 1] for c in (x, y)]
        flicker.append(np.abs(steps[0] - steps[1]).mean())
    return {"tof": float(np.mean(tof)), "warp": float(np.mean(warp)), "flicker": float(np.mean(flicker))}


@cache
def cvvdp_metric():
    """ColorVideoVDP for a 24 inch display of full HD, seen from 60 cm."""
    try:
        import pycvvdp
    except ImportError as err:
        raise SystemExit(f"cvvdp needs the PyPI package of that name: pip install cvvdp ({err})") from err
    return pycvvdp.cvvdp(display_name="standard_fhd", quiet=True, device=torch.device("cpu"))


def cvvdp(clip, reference):
    """ColorVideoVDP in JOD: 10 is the same, a difference of 1 is seen by three people of four. Sees colour and flicker."""
    order = {"dim_order": "FHWC", "frames_per_second": 25 if len(clip) > 1 else 0}
    return float(cvvdp_metric().predict(clip, reference, **order)[0])


# What is measured where it is asked for: it needs packages of its own, and time.
MORE = {"deep": deep.distance, "cvvdp": cvvdp}


def measure(clip, reference, border=4, more=()):
    """All measures of one clip, by name; of MORE, those asked for."""
    vmaf, xpsnr = vmaf_neg_and_xpsnr(clip, reference)
    cb, cr = psnr_chroma(clip, reference, border)
    scores = {"psnr_y": psnr_y(clip, reference, border), "psnr_cb": cb, "psnr_cr": cr}
    scores |= {"ssim": ssim_y(clip, reference, border), "vmaf_neg": vmaf, "xpsnr": xpsnr}
    return scores | temporal(clip, reference) | {name: MORE[name](clip, reference) for name in more}
