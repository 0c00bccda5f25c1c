"""Degradations: how a low-resolution clip is made from a high-resolution one.

A degradation is a recipe, a string of steps joined by "+", applied in order to a whole clip:

    bi                      to the final size (a quarter unless said otherwise) by antialiased bicubic, the literature's "BI"
    bd                      Gaussian sigma 0.4 x scale, then every fourth pixel, the literature's "BD"
    area                    down by box averaging
    sizeP                   to P percent of the final size by the same bicubic; a later step has to go to the final size
    blurSX[xSY[@DEG]]       Gaussian blur, sigmas in pixels of the grid it acts on, angle in degrees
    noiseS                  Gaussian noise, sigma in 8-bit levels, independent per frame
    jpegQ                   JPEG per frame, quality Q
    crfN or h264-N          real H.264 encode and decode of the clip at constant rate factor N
    h265-N, vp9-N, av1-N    the same with H.265, VP9, AV1; their N are on scales of their own

Example: "blur0.8x0.5@30+bi+noise2+crf28". The same recipe and seed give the same pixels (for one version of the codecs).
Clips are uint8 RGB arrays [T, H, W, 3].
"""

import io
import os
import re
from functools import lru_cache

import av
import cv2
import numpy as np


def cubic(x, a=-0.5):
    """Keys' cubic convolution kernel."""
    x = np.abs(x)
    inner = (a + 2) * x**3 - (a + 3) * x**2 + 1
    outer = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, inner, np.where(x < 2, outer, 0.0))


@lru_cache(maxsize=64)
def resize_matrix(size_in, size_out):
    """[size_out, size_in] bicubic weights, antialiased when shrinking, edges replicated: MATLAB's imresize in one dimension."""
    scale = size_out / size_in
    widen = min(scale, 1.0)
    centre = (np.arange(size_out) + 0.5) / scale - 0.5
    reach = int(np.ceil(2 / widen)) + 1
    taps = np.floor(centre)[:, None] + np.arange(-reach, reach + 1)[None]
    weights = cubic((taps - centre[:, None]) * widen)
    weights /= weights.sum(1, keepdims=True)
    matrix = np.zeros((size_out, size_in), np.float32)
    rows = np.broadcast_to(np.arange(size_out)[:, None], taps.shape)
    np.add.at(matrix, (rows, np.clip(taps, 0, size_in - 1).astype(int)), weights.astype(np.float32))
    return matrix


def to_uint8(x):
    """Round half up, as the exported graphs do."""
    return np.floor(np.clip(x + 0.5, 0, 255)).astype(np.uint8)


def resize_bicubic(clip, height, width):
    """Bicubic resize of uint8 [T, H, W, 3], up or down."""
    down, across = resize_matrix(clip.shape[1], height), resize_matrix(clip.shape[2], width)
    out = np.empty((len(clip), height, width, 3), np.uint8)
    for t, frame in enumerate(clip):
        rows = down @ frame.reshape(frame.shape[0], -1).astype(np.float32)
        out[t] = to_uint8(np.einsum("ow,hwc->hoc", across, rows.reshape(height, -1, 3), optimize=True))
    return out


def gaussian_kernel(sx, sy, degrees):
    radius = int(np.ceil(3 * max(sx, sy)))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    kernel = np.exp(-0.5 * (((c * x + s * y) / sx) ** 2 + ((c * y - s * x) / sy) ** 2))
    return kernel / kernel.sum()


def blur(clip, sx, sy, degrees):
    kernel = gaussian_kernel(sx, sy, degrees)
    return np.stack([cv2.filter2D(f, -1, kernel, borderType=cv2.BORDER_REPLICATE) for f in clip])


def bt709():
    """RGB -> Y, Cb, Cr rows for 8-bit limited range, from Kr = 0.2126, Kb = 0.0722."""
    kr, kb = 0.2126, 0.0722
    y = np.array([kr, 1 - kr - kb, kb])
    cb, cr = (np.array([0, 0, 1]) - y) / (2 - 2 * kb), (np.array([1, 0, 0]) - y) / (2 - 2 * kr)
    return np.stack([219 * y, 224 * cb, 224 * cr]) / 255


def to_yuv420(frame):
    """RGB [H, W, 3] -> planar [1.5 H, W], chroma sited left. swscale's own conversion truncates and darkens by a level."""
    yuv = frame @ bt709().T.astype(np.float32) + np.float32([16, 128, 128])
    wide = np.pad(yuv[..., 1:], ((0, 0), (1, 1), (0, 0)), "edge")
    chroma = (wide[:, :-2:2] + 2 * wide[:, 1:-1:2] + wide[:, 2::2]) / 4
    chroma = (chroma[::2] + chroma[1::2]) / 2
    planes = [yuv[..., 0], chroma[..., 0], chroma[..., 1]]
    return to_uint8(np.concatenate([p.reshape(-1) for p in planes])).reshape(-1, frame.shape[1])


def from_yuv420(planes, height, width):
    """The inverse of `to_yuv420`, chroma upsampled bilinearly."""
    flat = planes.reshape(-1).astype(np.float32)
    luma = flat[: height * width].reshape(height, width)
    chroma = flat[height * width :].reshape(2, height // 2, width // 2)
    tall = np.pad(chroma, ((0, 0), (1, 1), (0, 1)), "edge")
    near, above, below = tall[:, 1:-1], tall[:, :-2], tall[:, 2:]
    rows = np.stack([3 * near + above, 3 * near + below], 2).reshape(2, height, -1) / 4
    full = np.stack([rows[..., :-1], (rows[..., :-1] + rows[..., 1:]) / 2], 3).reshape(2, height, width)
    yuv = np.stack([luma - 16, full[0] - 128, full[1] - 128], -1)
    return to_uint8(yuv @ np.linalg.inv(bt709()).T.astype(np.float32))


os.environ.setdefault("SVT_LOG", "1")  # libsvtav1 tells about every stream otherwise

# The encoder of each codec, with options that make it repeatable, quiet and as fast as the others.
CODECS = {
    "h264": ("libx264", {"preset": "medium"}),
    "h265": ("libx265", {"preset": "medium", "x265-params": "pools=none:wpp=0:frame-threads=1:log-level=none"}),
    "vp9": ("libvpx-vp9", {"b": "0", "deadline": "good", "cpu-used": "4"}),
    "av1": ("libsvtav1", {"preset": "9", "svtav1-params": "lp=1"}),
}


def encode(clip, codec, crf):
    """Encode and decode with one of CODECS, 4:2:0, BT.709, 25 fps."""
    height, width = clip.shape[1:3]
    # libx265 aborts on pictures smaller than one of its 64x64 blocks, and its result varies on those of one block; 4:2:0 needs
    # even sides.
    below, right = (max(96, side + side % 2) - side for side in (height, width))
    clip = np.pad(clip, ((0, 0), (0, below), (0, right), (0, 0)), "edge")
    encoder, options = CODECS[codec]
    options = {"crf": str(int(crf))} | options
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as out:
        stream = out.add_stream(encoder, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = *clip.shape[1:3], "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in clip:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(to_yuv420(frame), format="yuv420p")))
        out.mux(stream.encode())
    if encoder == "libsvtav1" and os.sched_getscheduler(0) == os.SCHED_FIFO:
        # Run by root it makes its caller a real-time thread, which starves all others.
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    buffer.seek(0)
    with av.open(buffer) as source:
        decoded = np.stack([from_yuv420(f.to_ndarray(), *clip.shape[1:3]) for f in source.decode(video=0)])
    return decoded[:, :height, :width]


def jpeg(frame, quality):
    data = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]


def degrade(clip, recipe, seed=0, scale=4):
    """uint8 [T, H, W, 3] -> uint8 [T, H/scale, W/scale, 3] by the recipe (see the top of this file). H, W: multiples of scale."""
    rng = np.random.default_rng(seed)
    final = clip.shape[1] // scale, clip.shape[2] // scale
    for step in recipe.split("+"):
        name, *numbers = re.fullmatch(r"([a-z]+(?:(?:26[45]|9|1)-)?)([\d.]+)?(?:x([\d.]+))?(?:@([\d.]+))?", step).groups()
        first, second, angle = (float(n) if n else None for n in numbers)
        if name == "bi":
            clip = resize_bicubic(clip, *final)
        elif name == "size":
            clip = resize_bicubic(clip, *(max(8, round(side * first / 100)) for side in final))
        elif name == "bd":
            clip = blur(clip, 0.4 * scale, 0.4 * scale, 0)[:, scale // 2 :: scale, scale // 2 :: scale]
        elif name == "area":
            clip = np.stack([cv2.resize(f, final[::-1], interpolation=cv2.INTER_AREA) for f in clip])
        elif name == "blur":
            clip = blur(clip, first, second or first, angle or 0)
        elif name == "noise":
            clip = to_uint8(clip + rng.normal(0, first, clip.shape))
        elif name == "jpeg":
            clip = np.stack([jpeg(f, int(first)) for f in clip])
        elif name == "crf":
            clip = encode(clip, "h264", first)
        elif name.rstrip("-") in CODECS:
            clip = encode(clip, name.rstrip("-"), first)
        else:
            raise ValueError(f"unknown degradation step {step!r} in {recipe!r}")
    if clip.shape[1:3] != final:
        raise ValueError(f"{recipe!r} ends at {clip.shape[2]}x{clip.shape[1]}, not at {final[1]}x{final[0]}; add a step `bi`")
    return clip


def random_recipe(rng):
    """A recipe as real sources have it: optics, resampling, sensor noise, then a codec."""
    steps = []
    if rng.random() < 0.7:
        sx, sy = rng.uniform(0.6, 2.4, 2)
        steps.append(f"blur{sx:.2f}x{sy:.2f}@{rng.integers(0, 180)}")
    steps.append(rng.choice(["bi", "bi", "area"]))
    if rng.random() < 0.6:
        steps.append(f"noise{rng.uniform(0.5, 6):.2f}")
    if rng.random() < 0.2:
        steps.append(f"jpeg{rng.integers(40, 95)}")
    if rng.random() < 0.8:
        steps.append(f"h264-{rng.integers(18, 34)}" if rng.random() < 0.7 else f"h265-{rng.integers(20, 36)}")
    return "+".join(steps)


# For each codec the rate factors at which it is transparent, visibly worse, and bad.
RATES = {"h264": (18, 26, 38), "h265": (20, 28, 39), "vp9": (26, 40, 56), "av1": (26, 42, 58)}


def random_codec(rng, low=0, high=2):
    """One pass through a codec, its rate between two of the three marks of RATES."""
    codec = rng.choice(list(RATES), p=[0.5, 0.2, 0.15, 0.15])
    return f"{codec}-{rng.integers(RATES[codec][low], RATES[codec][high] + 1)}"


def harsh_recipe(rng):
    """A recipe as footage has it that went from a camera to the web: two passes through a codec, often resized between."""
    steps = []
    if rng.random() < 0.7:
        steps.append(f"blur{rng.uniform(0.6, 3):.2f}")
    steps.append(f"size{rng.integers(100, 200)}" if rng.random() < 0.6 else "bi")
    if rng.random() < 0.6:
        steps.append(f"noise{rng.uniform(1, 8):.2f}")
    steps += [random_codec(rng, 0, 1), "bi", random_codec(rng, 1, 2)]
    return "+".join(steps)


def damage(recipe):
    """What a recipe did to a picture, three numbers from 0 to about 1: blur, noise, and the harshest pass through a codec."""
    blurs, noises, passes = [0.0], [0.0], [0.0]
    for step in recipe.split("+"):
        name, number = re.match(r"([a-z]+(?:(?:26[45]|9|1)-)?)([\d.]*)", step).groups()
        if name == "blur":
            blurs.append(float(number) / 3)
        elif name == "noise":
            noises.append(float(number) / 8)
        elif name == "jpeg":
            passes.append((100 - float(number)) / 100)
        elif name == "crf" or name.rstrip("-") in CODECS:
            low, _, high = RATES[name.rstrip("-") if name != "crf" else "h264"]
            passes.append((float(number) - low) / (high - low))
    return max(blurs), max(noises), max(passes)
