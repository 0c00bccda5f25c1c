"""Training, one stage per run: `python -m fastvsr_models.train CONFIG --cache DIR --out DIR [--val DIR]`.

A run writes to its folder: checkpoint.pt (weights, their moving average, optimizer, step), log.csv and a picture at every
evaluation. Started again with the same folder it goes on from the checkpoint, with the config as it is then.
"""

import argparse
import csv
import time
import tomllib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from .data import Clips, crop_to_multiple, list_clips, read_clip
from .degrade import degrade
from .metrics import psnr_y
from .networks import FastVSR

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("config")
parser.add_argument("--cache", required=True, help="made by `python -m fastvsr_models.data`")
parser.add_argument("--out", required=True, help="folder of this run")
parser.add_argument("--init", help="checkpoint to take starting weights from")
parser.add_argument("--val", help="folder of clips to evaluate on; never trained on")
parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
parser.add_argument("--threads", type=int, help="CPU threads")
parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after this time")
parser.add_argument("--eval-every", type=int, default=1000, help="steps")
args = parser.parse_args()
if args.threads:
    torch.set_num_threads(args.threads)
config = tomllib.loads(Path(args.config).read_text())
data, optim = config["data"], config["optim"]
out = Path(args.out)
out.mkdir(parents=True, exist_ok=True)

torch.manual_seed(0)
net = FastVSR(config["network"]).to(args.device, memory_format=torch.channels_last)
if args.init:
    net.load_state_dict(torch.load(args.init, map_location=args.device, weights_only=True)["ema"])
ema = {k: v.detach().clone() for k, v in net.state_dict().items()}
optimizer = torch.optim.AdamW(net.parameters(), lr=optim["rate"], betas=(0.9, 0.99), weight_decay=0)
step = 0
resume = out / "checkpoint.pt"
if resume.exists():
    state = torch.load(resume, map_location=args.device, weights_only=True)
    net.load_state_dict(state["net"])
    optimizer.load_state_dict(state["optimizer"])
    ema, step = state["ema"], state["step"]
sizes = {k: data[k] for k in ("kinds", "soft", "still_weight") if k in data}
clips = Clips(args.cache, seed=step, **sizes)


def to_tensor(clip):
    """uint8 [B, T, H, W, 3] -> float [B, T, 3, H, W] in 0..1, channels last in memory."""
    return torch.from_numpy(np.ascontiguousarray(clip)).to(args.device).permute(0, 1, 4, 2, 3).float() / 255


def to_target(clip):
    """uint8 [B, T, 4H, 4W, 3] -> float [B, T, 48, H, W] in the order of `to_lr_grid`, moved as bytes."""
    b, t, h, w, _ = clip.shape
    phases = clip.reshape(b, t, h // 4, 2, 2, w // 4, 2, 2, 3).transpose(0, 1, 2, 5, 8, 4, 7, 3, 6)
    return to_tensor(phases.reshape(b, t, h // 4, w // 4, 48))


def rate(step):
    """Warm-up, plateau, linear decay over the last `decay` steps."""
    fall = (optim["steps"] - step) / optim["decay"]
    return optim["rate"] * min(1, (step + 1) / optim["warmup"], max(fall, 0.01))


def save():
    state = {"net": net.state_dict(), "ema": ema, "optimizer": optimizer.state_dict(), "step": step}
    torch.save(state | {"network": config["network"]}, out / "checkpoint.tmp")
    (out / "checkpoint.tmp").rename(resume)


# The eight-frame centre crops that every evaluation of the run sees, clean and compressed.
val = []
for path in list_clips(args.val) if args.val else []:
    hr = crop_to_multiple(read_clip(path), 32)
    for recipe in ("bi", "bi+crf28"):
        lr = degrade(hr, recipe)
        y, x = (lr.shape[1] - 96) // 2, (lr.shape[2] - 160) // 2
        pair = lr[:8, y : y + 96, x : x + 160], hr[:8, 4 * y : 4 * (y + 96), 4 * x : 4 * (x + 160)]
        val.append((path.stem, recipe, *pair))


@torch.no_grad()
def evaluate():
    """Mean Y-PSNR of the averaged weights per recipe, and a picture."""
    trained = {k: v.clone() for k, v in net.state_dict().items()}
    net.load_state_dict(ema)
    scores, strips = {}, []
    for _name, recipe, lr, hr in val:
        with torch.autocast(args.device, torch.bfloat16):
            sr = net(to_tensor(lr[None]))[0].float()
        sr = (sr.permute(0, 2, 3, 1).clamp(0, 1) * 255 + 0.5).to(torch.uint8).cpu().numpy()
        scores.setdefault(recipe, []).append(psnr_y(sr, hr))
        strips.append(np.concatenate([lr[-1].repeat(4, 0).repeat(4, 1), sr[-1], hr[-1]], 1)[96:288])
    net.load_state_dict(trained)
    if strips:
        Image.fromarray(np.concatenate(strips)).save(out / f"val-{step:06d}.jpg", quality=90)
    return {k: float(np.mean(v)) for k, v in scores.items()}


columns = ["step", "minutes", "rate", "loss", "bi", "bi+crf28"]
log_path = out / "log.csv"
if not log_path.exists():
    log_path.write_text(",".join(columns) + "\n")
started, losses = time.time(), []
while step < optim["steps"] and time.time() - started < 60 * args.minutes:
    for group in optimizer.param_groups:
        group["lr"] = rate(step)
    lr, hr = clips.batch(data["batch"], data["frames"], data["crop"])
    with torch.autocast(args.device, torch.bfloat16):
        sr = net(to_tensor(lr), at_lr=True)
    loss = F.smooth_l1_loss(sr.float(), to_target(hr), beta=0.004)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), 0.5)
    optimizer.step()
    step += 1
    with torch.no_grad():
        keep = min(optim["ema"], step / (step + 10))
        for name, value in net.state_dict().items():
            ema[name].lerp_(value, 1 - keep)
    losses.append(loss.item())
    if step % 100 == 0:
        print(f"step {step} loss {np.mean(losses[-100:]):.5f} {(time.time() - started) / 60:.1f} min", flush=True)
    if step % args.eval_every == 0 or step == optim["steps"]:
        save()
        row = {"step": step, "minutes": round((time.time() - started) / 60, 2), "rate": rate(step)}
        row |= {"loss": round(float(np.mean(losses)), 6), **{k: round(v, 3) for k, v in evaluate().items()}}
        with log_path.open("a") as file:
            csv.DictWriter(file, columns).writerow(row)
        print(row, flush=True)
        losses = []
save()
