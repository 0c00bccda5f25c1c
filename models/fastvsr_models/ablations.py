"""Ablations: the same short training for every variant, then one table.

python -m fastvsr_models.ablations --cache CACHE --val VAL --out DIR [--reference VAE] [--only f8-f8,f8-f32]

Every run is `fastvsr_models.train` with the config (configs/ablation.toml) and the lines of its variant below, in DIR/NAME;
started again, the command goes on where it stopped. `table.md` has work, time and quality on centre crops of the clips in VAL.
Whether the copy is folded needs no training: it changes no pixel (tests/test_networks.py).
"""

import argparse
import csv
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from .data import crop_to_multiple, list_clips, read_clip
from .degrade import degrade
from .metrics import measure
from .variants import Variant

CONFIG = Path(__file__).parents[1] / "configs/ablation.toml"
# With the usual loss, nearly absolute, f8-f8 and f8-f32 do not outlive the first hundred steps.
QUADRATIC = "\n[loss]\nknee = 0.1"
VARIANTS = {
    "f8-f16": "[variant]\nstride = 16",  # the default, in the same form as the others, so that times compare
    "f8-f16 quadratic": "[variant]\nstride = 16" + QUADRATIC,  # beside the next two
    "f8-f8": "[variant]\nstride = 8" + QUADRATIC,
    "f8-f32, all of x4 in the decoder": "[variant]\nstride = 32" + QUADRATIC,
    "not conditioned on the LR frame": "[variant]\ncondition = false",
    "no memory": "[variant]\nmemory = []",
    "memory on the latent grid alone": '[variant]\nmemory = ["latent"]',
    "memory on the LR grid alone": '[variant]\nmemory = ["lr"]',
    "lower-bound guidance": "[variant]\nstride = 16\n[loss]\nlbg = 0.1\nbeta = 1e-5",
    "adversarial": "[variant]\nstride = 16\n[loss]\nadversarial = 1e-3",
    "latent noise": "[variant]\nlatent_noise = 0.1",
}
RECIPES = ("bi", "bi+crf28")


def slug(name):
    return name.split(",")[0].replace(" ", "-")


def network(checkpoint):
    """The trained network of a run, averaged weights."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    net = Variant(state["network"], **state["variant"]).eval().requires_grad_(False)
    net.load_state_dict(state["ema"])
    return net


def kmacs(net, side=64):
    """kMAC per LR pixel, as trained; exported graphs have less where the copy folds."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        net.to("meta")(torch.empty(1, 1, 3, side, side))
    return counter.get_total_flops() / 2000 / side**2


def crops(folder, frames=8, height=384, width=640):
    """Centre crops of the clips: uint8 [T, Y, X, 3]."""
    for path in list_clips(folder):
        clip = crop_to_multiple(read_clip(path, frames), 64)
        top, left = max(0, clip.shape[1] - height) // 2, max(0, clip.shape[2] - width) // 2
        yield clip[:, top : top + height, left : left + width]


def upscale(net, lr):
    """uint8 [T, H, W, 3] -> [T, 4H, 4W, 3]."""
    frames = torch.from_numpy(lr).permute(0, 3, 1, 2)[None].float() / 255
    return (net(frames)[0].permute(0, 2, 3, 1).clamp(0, 1) * 255 + 0.5).to(torch.uint8).numpy()


def row(name, run, clips):
    """A line of the table for a finished run."""
    net, cells = network(run / "checkpoint.pt"), []
    for recipe in RECIPES:
        scores = []
        for hr in clips:
            scores.append(measure(upscale(net, degrade(hr, recipe)), hr))
        mean = {key: np.mean([score[key] for score in scores]) for key in ("psnr_y", "vmaf_neg", "tof")}
        cells.append(f"{mean['psnr_y']:.2f} / {mean['vmaf_neg']:.1f} / {mean['tof']:.3f}")
    log = list(csv.DictReader((run / "log.csv").open()))[-1]
    seconds = 60 * float(log["minutes"]) / int(log["step"])
    return f"| {name} | {kmacs(net):.0f} | {log['step']} | {seconds:.2f} | {' | '.join(cells)} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", required=True, help="made by `python -m fastvsr_models.data`")
    parser.add_argument("--val", required=True, help="folder of clips that are not trained on")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and of table.md")
    parser.add_argument(
        "--reference", help="checkpoint of stage vae, the judge of lower-bound guidance; without it that is left out"
    )
    parser.add_argument("--only", help="variants, comma-separated, as their folders are named (default: all)")
    parser.add_argument("--config", type=Path, default=CONFIG, help="what all runs have in common")
    parser.add_argument("--threads", type=int, help="CPU threads")
    args = parser.parse_args()
    chosen = {slug(name): name for name in VARIANTS}
    if args.only:
        unknown = set(args.only.split(",")) - set(chosen)
        if unknown:
            raise SystemExit(f"unknown variants {', '.join(sorted(unknown))}; known: {', '.join(chosen)}")
        chosen = {key: name for key, name in chosen.items() if key in args.only.split(",")}
    elif not args.reference:
        del chosen["lower-bound-guidance"]
    clips, lines = list(crops(args.val)), []
    lines += [
        "| variant | kMAC per LR pixel | steps | s a step | "
        + " | ".join(f"{r}: PSNR-Y / VMAF-NEG / tOF" for r in RECIPES)
        + " |"
    ]
    lines += ["|---|---|---|---|" + "---|" * len(RECIPES)]
    for key, name in chosen.items():
        run = args.out / key
        run.mkdir(parents=True, exist_ok=True)
        text = f"{args.config.read_text()}\n{VARIANTS[name]}\n"
        steps = tomllib.loads(text)["optim"]["steps"]
        (run / "config.toml").write_text(text)
        command = [sys.executable, "-m", "fastvsr_models.train", run / "config.toml", "--cache", args.cache, "--out", run]
        command += ["--eval-every", steps] + (["--threads", args.threads] if args.threads else [])
        command += ["--reference", args.reference] if key == "lower-bound-guidance" else []
        subprocess.run([str(part) for part in command], check=True)
        lines.append(row(name, run, clips))
        (args.out / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
