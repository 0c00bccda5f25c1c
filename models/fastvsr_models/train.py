"""Training, one stage per run: `python -m fastvsr_models.train CONFIG --cache DIR --out DIR`, and see --help.

The stages of the paper, each a config in configs/:

    vae      (a) the reference f8 VAE, on HR frames and on HR frames of half size
    denoise  (b) the one-step UNet; encoder frozen, target = the latent of the HR frame at half size
    decoder  (c) the f16 decoder, from the f8 decoder; encoder and UNet frozen; pixel + perceptual + lower-bound-guided loss
    joint    (d) everything, end to end

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
from .lbg import LowerBoundGuidance, free_energy
from .metrics import psnr_y
from .networks import VAE, FastVSR, from_lr_grid
from .variants import Adversary, Variant

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("config")
parser.add_argument("--cache", required=True, help="made by `python -m fastvsr_models.data`")
parser.add_argument("--out", required=True, help="folder of this run")
parser.add_argument("--init", help="checkpoint of the stage before, to start from")
parser.add_argument("--reference", help="checkpoint of stage vae: encoder and f8 decoder for denoise, judge for the losses")
parser.add_argument("--val", help="folder of clips to evaluate on; never trained on")
parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
parser.add_argument("--threads", type=int, help="CPU threads")
parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after this time")
parser.add_argument("--eval-every", type=int, default=1000, help="steps")
args = parser.parse_args()
if args.threads:
    torch.set_num_threads(args.threads)
config = tomllib.loads(Path(args.config).read_text())
BT601 = torch.tensor([0.299, 0.587, 0.114])  # RGB -> Y
stage, data, optim = config["stage"], config["data"], config["optim"]
loss_weights = {"pixel": 1.0, "temporal": 0.0, "perceptual": 0.0, "lbg": 0.0, "beta": 1e-4, "adversarial": 0.0, "knee": 0.004}
loss_weights |= config.get("loss", {})
out = Path(args.out)
out.mkdir(parents=True, exist_ok=True)


def load(path):
    return torch.load(path, map_location=args.device, weights_only=True)


# The network of this stage, and what of it learns.
torch.manual_seed(0)
variant = config.get("variant", {})
if stage == "vae":
    net = VAE(config["network"])
else:
    net = Variant(config["network"], **variant) if variant else FastVSR(config["network"])
net.to(args.device, memory_format=torch.channels_last)
reference = None
if args.reference:
    reference = VAE(config["network"]).to(args.device, memory_format=torch.channels_last)
    reference.load_state_dict(load(args.reference)["ema"])
    reference.eval().requires_grad_(False)
if args.init:
    net.load_state_dict(load(args.init)["ema"])
if stage == "denoise":
    net.encoder.load_state_dict(reference.encoder.state_dict())
    net.decoder.load_state_dict(reference.decoder.state_dict())
learning = {"vae": net, "denoise": getattr(net, "unet", None), "decoder": net.decoder, "joint": net}[stage]
net.requires_grad_(False)
learning.requires_grad_(True)
guidance, guidance_weight = None, loss_weights["lbg"] or loss_weights["adversarial"]
if loss_weights["lbg"]:
    guidance = LowerBoundGuidance(reference, loss_weights["beta"], optim["rate"])
elif loss_weights["adversarial"]:
    guidance = Adversary(optim["rate"], args.device)

ema = {k: v.detach().clone() for k, v in net.state_dict().items()}
optimizer = torch.optim.AdamW(learning.parameters(), lr=optim["rate"], betas=(0.9, 0.99), weight_decay=0)
step, minutes = 0, 0.0
resume = out / "checkpoint.pt"
if resume.exists():
    state = load(resume)
    net.load_state_dict(state["net"])
    optimizer.load_state_dict(state["optimizer"])
    ema, step, minutes = state["ema"], state["step"], state["minutes"]
    if guidance:
        guidance.load_state_dict(state["guidance"])
clips = Clips(args.cache, seed=step, **{k: data[k] for k in ("kinds", "sharpen", "soft", "still_weight") if k in data})


def to_tensor(clip):
    """uint8 [..., H, W, C] -> float [..., C, H, W] in 0..1, channels last in memory."""
    return torch.from_numpy(np.ascontiguousarray(clip)).to(args.device).movedim(-1, -3).float() / 255


def to_target(clip):
    """uint8 [B, T, 4H, 4W, 3] -> float [B, T, 48, H, W] in the order of `to_lr_grid`, moved as bytes."""
    b, t, h, w, _ = clip.shape
    phases = clip.reshape(b, t, h // 4, 2, 2, w // 4, 2, 2, 3).transpose(0, 1, 2, 5, 8, 4, 7, 3, 6)
    return to_tensor(phases.reshape(b, t, h // 4, w // 4, 48))


def half_size(frames):
    """[..., 3, 4H, 4W] -> [..., 3, 2H, 2W]."""
    return F.avg_pool2d(frames.flatten(0, -4), 2).unflatten(0, frames.shape[:-3])


def vae_loss(lr, hr):
    """(a) Free energy of real frames, whole and at half size: one model serves latents (b) and judges full frames (c)."""
    frames = to_tensor(hr[:, 0])
    energies = []
    for image in (frames, half_size(frames)):
        noise = torch.randn(len(image), net.size.latent, image.shape[2] // 8, image.shape[3] // 8, device=args.device)
        with torch.autocast(args.device, torch.bfloat16):
            energies.append(free_energy(net, image, noise, loss_weights["beta"]))
    return sum(energies) / 2


def denoise_loss(lr, hr):
    """(b) Squared error of the denoised latent, against the latent of the HR frame at half size."""
    with torch.autocast(args.device, torch.bfloat16):
        with torch.no_grad():
            target = reference.encode(half_size(to_tensor(hr)).flatten(0, 1))[0]
            latent = net.encoder(to_tensor(lr).flatten(0, 1)).unflatten(0, lr.shape[:2])
        return F.mse_loss(net.denoise(latent).flatten(0, 1).float(), target.float())


def pixel_loss(sr, target):
    """Smooth L1 on RGB plus the same on luma, where the eye sees more. [B, T, 48, H, W] each, in the order of `to_lr_grid`."""
    luma = [torch.einsum("c,btcphw->btphw", BT601.to(x), x.unflatten(2, (3, 16))) for x in (sr, target)]
    return sum(F.smooth_l1_loss(x, y, beta=loss_weights["knee"]) for x, y in ((sr, target), luma))


def video_loss(lr, hr):
    """(c), (d) Pixels on every frame; the perceptual and the lower-bound-guided terms on one frame of each clip."""
    keep = torch.rand(len(lr), 1, 1, 1, device=args.device) >= data.get("drop_condition", 0)
    with torch.autocast(args.device, torch.bfloat16):
        sr = net(to_tensor(lr), at_lr=True, keep=keep.repeat_interleave(lr.shape[1], 0))
    target = to_target(hr)
    loss = loss_weights["pixel"] * pixel_loss(sr.float(), target)
    if loss_weights["temporal"]:
        loss = loss + loss_weights["temporal"] * pixel_loss(sr.float().diff(dim=1), target.diff(dim=1))
    if loss_weights["perceptual"] or guidance:
        t = int(torch.randint(sr.shape[1], ()))
        fake, real = from_lr_grid(sr[:, t].float()), from_lr_grid(target[:, t])
        with torch.autocast(args.device, torch.bfloat16):
            if loss_weights["perceptual"]:
                difference = reference.encode(fake)[0] - reference.encode(real)[0]
                loss = loss + loss_weights["perceptual"] * difference.float().abs().mean()
            if guidance:
                loss = loss + guidance_weight * guidance.loss(fake).float()
                guidance.track(fake, real)
    return loss


def rate(step):
    """Warm-up, plateau, linear decay over the last `decay` steps."""
    fall = (optim["steps"] - step) / optim["decay"]
    return optim["rate"] * min(1, (step + 1) / optim["warmup"], max(fall, 0.01))


def save():
    state = {"net": net.state_dict(), "ema": ema, "optimizer": optimizer.state_dict(), "step": step, "minutes": minutes}
    if guidance:
        state["guidance"] = guidance.state_dict()
    torch.save(state | {"network": config["network"], "variant": variant, "stage": stage}, out / "checkpoint.tmp")
    (out / "checkpoint.tmp").rename(resume)


# The eight-frame centre crops that every evaluation of the run sees, clean and compressed.
val = []
for path in list_clips(args.val) if args.val else []:
    hr = crop_to_multiple(read_clip(path), 32)
    for recipe in ("bi", "bi+crf28"):
        lr = degrade(hr, recipe)
        y, x = (lr.shape[1] - 96) // 2, (lr.shape[2] - 160) // 2
        val.append((recipe, lr[:8, y : y + 96, x : x + 160], hr[:8, 4 * y : 4 * (y + 96), 4 * x : 4 * (x + 160)]))


def result(lr, hr):
    """What this stage shows: the reconstruction of HR (a), else the upscaled clip; uint8 [T, 4H, 4W, 3]."""
    with torch.no_grad(), torch.autocast(args.device, torch.bfloat16):
        image = net.decode(net.encode(to_tensor(hr))[0]) if stage == "vae" else net(to_tensor(lr[None]))[0]
    return (image.float().movedim(-3, -1).clamp(0, 1) * 255 + 0.5).to(torch.uint8).cpu().numpy()


def evaluate():
    """Mean Y-PSNR of the averaged weights per recipe, and a picture: LR, result, HR."""
    trained = {k: v.clone() for k, v in net.state_dict().items()}
    net.load_state_dict(ema)
    scores, strips = {}, []
    for recipe, lr, hr in val:
        sr = result(lr, hr)
        scores.setdefault(recipe, []).append(psnr_y(sr, hr))
        strips.append(np.concatenate([lr[-1].repeat(4, 0).repeat(4, 1), sr[-1], hr[-1]], 1)[96:288])
    net.load_state_dict(trained)
    if strips:
        Image.fromarray(np.concatenate(strips)).save(out / f"val-{step:06d}.jpg", quality=90)
    return {k: round(float(np.mean(v)), 3) for k, v in scores.items()}


stage_loss = {"vae": vae_loss, "denoise": denoise_loss, "decoder": video_loss, "joint": video_loss}[stage]
columns = ["step", "minutes", "rate", "loss", "bi", "bi+crf28"]
log_path = out / "log.csv"
if not log_path.exists():
    log_path.write_text(",".join(columns) + "\n")
started, losses = time.time() - 60 * minutes, []
stop = minutes + args.minutes
while step < optim["steps"] and minutes < stop:
    for group in optimizer.param_groups:
        group["lr"] = rate(step)
    loss = stage_loss(*clips.batch(data["batch"], data["frames"], data["crop"]))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(learning.parameters(), 1.0)
    optimizer.step()
    step += 1
    with torch.no_grad():
        keep = min(optim["ema"], step / (step + 10))
        for name, value in net.state_dict().items():
            ema[name].lerp_(value, 1 - keep)
    losses.append(loss.item())
    minutes = (time.time() - started) / 60
    if step % 100 == 0:
        print(f"step {step} loss {np.mean(losses[-100:]):.5f} {minutes:.1f} min", flush=True)
    if step % args.eval_every == 0 or step == optim["steps"]:
        save()
        row = {"step": step, "minutes": round(minutes, 2), "rate": rate(step), "loss": round(float(np.mean(losses)), 6)}
        row |= evaluate()
        with log_path.open("a") as file:
            csv.DictWriter(file, columns).writerow(row)
        print(row, flush=True)
        losses = []
save()
