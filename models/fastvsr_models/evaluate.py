"""Evaluation: clips x degradations x upscalers -> a table of quality measures and picture strips.

python -m fastvsr_models.evaluate --clips DIR --degradation bi,bi+crf28 --upscalers bicubic,lanczos,element --out DIR

DIR holds clips, or pictures (Set5, Set14), which are clips of one frame and have no measures of time. Clips are cropped to
multiples of eight times the scale and used whole unless --frames or --size say otherwise. `table.md` has the mean and every clip,
`scores.json` the numbers, `strip-*.png` the same part of one frame side by side: the degraded frame, each upscaler, the original,
`page.html` (with --page) all strips in one file, to look at. Measures are described in metrics.py and deep.py.
"""

import argparse
import base64
import html
import io
import json
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from .data import crop_to_multiple, list_clips, list_pictures, read_clip
from .degrade import degrade
from .metrics import MORE, measure

RECIPES = ("bi", "bi+crf28", "blur2+bi+noise4+crf32")  # clean, compressed, harsh
MEASURES = {
    "psnr_y": ("PSNR-Y dB", ".2f"),
    "psnr_cb": ("PSNR-Cb dB", ".2f"),
    "psnr_cr": ("PSNR-Cr dB", ".2f"),
    "ssim": ("SSIM", ".4f"),
    "vmaf_neg": ("VMAF-NEG", ".1f"),
    "xpsnr": ("XPSNR dB", ".2f"),
    "tof": ("tOF px", ".3f"),
    "warp": ("E*warp", ".3f"),
    "flicker": ("flicker", ".2f"),
    "deep": ("deep", ".1f"),
    "cvvdp": ("cvvdp JOD", ".2f"),
}


def read_folder(folder, scale, frames=None):
    """(name, clip) of every clip and picture in a folder; a picture is a clip of one frame.

    Clips are cropped to multiples of eight times the scale, pictures to multiples of the scale, as the literature has them.
    """
    if not Path(folder).is_dir():
        raise SystemExit(f"no folder {folder}")
    for path in list_clips(folder):
        yield path.stem, crop_to_multiple(read_clip(path, frames), 8 * scale)
    for path in list_pictures(folder):
        yield path.stem, crop_to_multiple(np.asarray(Image.open(path).convert("RGB"))[None], scale)


def examples(folders, scale):
    """What training is watched by, [(name, LR frame, HR frame)]: pictures, `bi`, named by their folder; of each clip the middle
    of its eighth frame, by RECIPES and named by them."""
    out = []
    for folder in map(Path, folders):
        for _, hr in read_folder(folder, scale, frames=8):
            if len(hr) == 1:
                out.append((folder.name, degrade(hr, "bi", scale=scale), hr))
                continue
            hr = centre(hr, min(512, hr.shape[1]), min(768, hr.shape[2]))
            out += [(recipe, degrade(hr, recipe, scale=scale)[-1:], hr[-1:]) for recipe in RECIPES]
    return out


@torch.no_grad()
def upscale(net, lr):
    """A network on uint8 [N, H, W, 3], padded as the element pads."""
    (height, width), multiple, scale = lr.shape[1:3], 2 * net.size.stride, net.size.scale
    padded = np.pad(lr, ((0, 0), (0, -height % multiple), (0, -width % multiple), (0, 0)), "edge")
    frames = torch.from_numpy(padded).to(next(net.parameters()).device).movedim(-1, 1).float() / 255
    image = (net(frames).movedim(1, -1).clamp(0, 1) * 255 + 0.5).to(torch.uint8)
    return image[:, : scale * height, : scale * width].cpu().numpy()


def centre(clip, height, width):
    top, left = (clip.shape[1] - height) // 2, (clip.shape[2] - width) // 2
    return clip[:, top : top + height, left : left + width]


def panels(lr, results, hr):
    """Last frames, all of one size: LR by pixel repetition, every result, the original."""
    scale = hr.shape[1] // lr.shape[1]
    return [clip[-1:] for clip in (lr[-1:].repeat(scale, 1).repeat(scale, 2), *results, hr)]


def strip(lr, results, hr, height=192, width=256):
    """The centre of the last frame, side by side."""
    height, width = min(height, hr.shape[1]), min(width, hr.shape[2])
    return np.concatenate([centre(p, height, width)[0] for p in panels(lr, results, hr)], 1)


def busiest(frame, height, width):
    """Top and left of the window [height, width] with the most upright edges."""
    edges = np.abs(np.diff(frame.astype(np.float32).sum(-1), axis=1)).astype(np.float64)
    edges = np.pad(edges, ((1, 0), (1, 1))).cumsum(0).cumsum(1)
    sums = edges[height:, width:] - edges[:-height, width:] - edges[height:, :-width] + edges[:-height, :-width]
    return (int(i) for i in np.unravel_index(sums.argmax(), sums.shape))


def figures(title, names, lr, results, hr, height=192, width=256):
    """HTML: two rows of the last frame, its centre and its busiest window, named and without loss."""
    height, width = min(height, hr.shape[1]), min(width, hr.shape[2])
    windows = {"centre": ((hr.shape[1] - height) // 2, (hr.shape[2] - width) // 2), "busiest": busiest(hr[-1], height, width)}
    lines = [f"<h2>{html.escape(title)}</h2>"]
    for where, (top, left) in windows.items():
        lines.append(f"<p>{where}</p><div>")
        for name, panel in zip(["LR", *names, "original"], panels(lr, results, hr), strict=True):
            file = io.BytesIO()
            Image.fromarray(panel[0, top : top + height, left : left + width]).save(file, "WEBP", lossless=True)
            data = base64.b64encode(file.getvalue()).decode()
            image = f'<img src="data:image/webp;base64,{data}">'
            lines.append(f"<figure>{image}<figcaption>{html.escape(name)}</figcaption></figure>")
        lines.append("</div>")
    return "\n".join(lines)


PAGE = """<!doctype html><meta charset="utf-8"><title>fastvsr: strips</title>
<style>
body{background:#222;color:#ddd;font:14px sans-serif}
div{display:flex;gap:4px}
figure{margin:0}
img{image-rendering:pixelated}
</style>
"""


def mean(rows, key, form):
    """A cell of the table; empty where a measure does not exist, as those of time for pictures."""
    values = [row[key] for row in rows if key in row]
    return format(np.mean(values), form) if values else ""


def table(scores):
    """Markdown: one table per degradation, the mean of every upscaler first, then clip by clip."""
    lines = []
    for degradation, by_upscaler in scores.items():
        rows = [row for by_clip in by_upscaler.values() for row in by_clip.values()]
        measures = {key: value for key, value in MEASURES.items() if any(key in row for row in rows)}
        lines += [f"### {degradation}", "", "| clip | upscaler | " + " | ".join(n for n, _ in measures.values()) + " |"]
        lines += ["|---|---|" + "---|" * len(measures)]
        clips = list(next(iter(by_upscaler.values())))
        for clip in ["**mean**", *clips]:
            for upscaler, by_clip in by_upscaler.items():
                rows = list(by_clip.values()) if clip == "**mean**" else [by_clip[clip]]
                cells = [mean(rows, key, form) for key, (_, form) in measures.items()]
                lines.append(f"| {clip} | {upscaler} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", required=True, help="folder of clips or pictures")
    parser.add_argument("--degradation", default="bi", help="recipes (see degrade.py), comma-separated")
    parser.add_argument("--upscalers", default="bicubic,lanczos,element", help="see upscalers.find, comma-separated")
    parser.add_argument("--out", required=True, help="folder for table.md, scores.json and strips")
    parser.add_argument("--frames", type=int, help="frames per clip (default: all)")
    parser.add_argument("--size", help="WIDTHxHEIGHT centre crop of the originals (default: whole)")
    parser.add_argument("--scale", type=int, default=4, help="output pixels per input pixel, for what has a choice")
    parser.add_argument("--more", default="", help=f"measures that take longer, comma-separated: {', '.join(MORE)}")
    parser.add_argument("--page", action="store_true", help="write page.html")
    parser.add_argument("--plugin-path", help="folder of the fastvsr plugin")
    providers = ["cpu", "cpu-int8", "openvino", "openvino-int8", "openvino-bf16"]
    parser.add_argument("--provider", default="cpu", choices=providers, help="for package: and onnx:")
    args = parser.parse_args()
    from .upscalers import find  # only here, so that training does without ONNX Runtime

    more = [name for name in args.more.split(",") if name]
    if not set(more) <= set(MORE):
        raise SystemExit(f"--more {args.more}: known are {', '.join(MORE)}")
    out, page = Path(args.out), [PAGE]
    out.mkdir(parents=True, exist_ok=True)
    upscalers = {name: find(name, args.plugin_path, args.provider, args.scale) for name in args.upscalers.split(",")}
    scores = {d: {name: {} for name in upscalers} for d in args.degradation.split(",")}
    for clip, hr in read_folder(args.clips, args.scale, args.frames):
        if args.size:
            hr = centre(hr, *map(int, reversed(args.size.split("x"))))
        for degradation in scores:
            lr = degrade(hr, degradation, scale=args.scale)
            results = []
            for name, upscale in upscalers.items():
                start = time.time()
                results.append(upscale(lr))
                fps = len(lr) / (time.time() - start)
                scores[degradation][name][clip] = row = measure(results[-1], hr, args.scale, more)
                print(clip, degradation, name, {k: round(v, 3) for k, v in row.items()}, f"{fps:.1f} fps", flush=True)
            Image.fromarray(strip(lr, results, hr)).save(out / f"strip-{clip}-{degradation}.png")
            if args.page:
                page.append(figures(f"{clip}, {degradation}", upscalers, lr, results, hr))
                (out / "page.html").write_text("\n".join(page))
        (out / "scores.json").write_text(json.dumps(scores, indent=1))
        (out / "table.md").write_text(table(scores))
    print(table(scores))


if __name__ == "__main__":
    main()
