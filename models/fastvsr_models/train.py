"""Training: `python -m fastvsr_models.train CONFIG --cache DIR --out DIR --minutes N`, and see --help.

The loss is smooth L1 on the luma that the network adds to the bicubic frame. With --teacher, data.taught crops of each batch are
those of teacher.py, whose fine detail is the teacher's. A x2 network can learn from what was made for x4: the aim is made half as
large.
A small head, dropped at export, has to tell from the denoised latent how the source was damaged, so that the latent is such a
code.

The rate falls with the time that is left, so a run may be as long as one has. It writes checkpoint.pt every three minutes
(weights, their moving average, optimizer), log.csv and a picture at every evaluation; started again with the same folder it goes
on from the checkpoint. On a GPU all data lies in its memory and a step is one CUDA graph.
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
from torch import nn

from .data import Clips, turned
from .evaluate import examples, strip, upscale
from .metrics import psnr_y
from .muon import Muon
from .networks import SIZES, FastVSR, pad_edges, skip_filter, to_lr_grid
from .teacher import Lessons, lesson

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("config")
parser.add_argument("--cache", required=True, help="made by `python -m fastvsr_models.data`")
parser.add_argument("--teacher", help="crops made by `python -m fastvsr_models.teacher`; without it all crops are the cache's")
parser.add_argument("--out", type=Path, required=True, help="folder of this run")
parser.add_argument("--minutes", type=float, default=float("inf"), help="of training in all, runs before this one included")
parser.add_argument("--steps", type=int, default=10**9, help="the same in steps")
parser.add_argument("--init", help="checkpoint to start from")
parser.add_argument("--val", default="", help="folders of pictures or clips to evaluate on, comma-separated; never trained on")
parser.add_argument("--eval-minutes", type=float, default=10)
parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
parser.add_argument("--threads", type=int, help="CPU threads")
args = parser.parse_args()
if args.threads:
    torch.set_num_threads(args.threads)
config = tomllib.loads(Path(args.config).read_text())
data, optim = config["data"], config["optim"]
loss_weights = {"code": 0.0, "teacher": 1.0, "sharpen": 0.0, "knee": 0.004} | config.get("loss", {})
device, cuda = args.device, args.device.startswith("cuda")
torch.backends.cudnn.benchmark = True
SAVE_MINUTES = 3
OTHERS = 0.25  # rate of biases and the last convolution, AdamW's, by that of Muon
BT601 = torch.tensor([0.299, 0.587, 0.114], device=device)  # RGB -> Y
checkpoint_path = args.out / "checkpoint.pt"
args.out.mkdir(parents=True, exist_ok=True)


def load(path):
    """A checkpoint, of this network."""
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        network = state["network"]
    except Exception as err:
        raise SystemExit(f"{path} is no checkpoint of train.py: {err}") from err
    if network != config["network"]:
        raise SystemExit(f"{path} is a checkpoint of {network}, {args.config} is for {config['network']}")
    return state


torch.manual_seed(0)
if config["network"] not in SIZES:
    raise SystemExit(f"{args.config}: unknown network {config['network']!r}; known: {', '.join(SIZES)}")
net = FastVSR(config["network"])
head = nn.Conv2d(net.size.latent, 3, 1)
learning = nn.ModuleDict({"net": net, "head": head}).to(device, memory_format=torch.channels_last)
scale = net.size.scale
if args.init:
    net.load_state_dict(load(args.init)["ema"])
parameters = list(learning.parameters())
ema = [p.detach().clone() for p in net.parameters()]
rate = torch.tensor(optim["rate"], device=device)
others_rate = torch.zeros_like(rate)
# The last convolution has one output: a matrix of one row, whose steps Muon would make all of one length.
matrices, others = [p for p in parameters if p.ndim > 1 and len(p) > 1], [p for p in parameters if p.ndim == 1 or len(p) == 1]
optimizers = [
    Muon(matrices, rate),
    torch.optim.AdamW(others, lr=others_rate, betas=(0.9, 0.99), weight_decay=0, fused=True, capturable=cuda),
]
step, minutes, resumed = 0, 0.0, None
if checkpoint_path.exists():
    resumed = load(checkpoint_path)
    learning.load_state_dict(resumed["learning"])
    ema = [resumed["ema"][name].clone() for name, _ in net.named_parameters()]
    step, minutes = resumed["step"], resumed["minutes"]

clips = Clips(args.cache, seed=step, device=device, **{k: data[k] for k in ("kinds", "soft", "still_weight") if k in data})
if clips.scale not in (scale, 2 * scale):
    raise SystemExit(f"{args.cache} is for x{clips.scale}, {config['network']} for x{scale}: make another with --scale {scale}")
if data["crop"] % (2 * net.size.stride):
    raise SystemExit(
        f"{args.config}: expected data.crop a multiple of {2 * net.size.stride} for this network, got {data['crop']}"
    )
lessons, taught_crops = None, 0
if args.teacher:
    lessons, taught_crops = Lessons(args.teacher, seed=step, device=device), data.get("taught", 0)
    if clips.scale != lessons.scale or not 0 < taught_crops <= data["batch"]:
        raise SystemExit(f"{args.config}: --teacher wants a cache for x{lessons.scale} and data.taught from 1 to data.batch")
side = clips.scale * data["crop"]
low = torch.zeros(data["batch"], data["crop"], data["crop"], 3, dtype=torch.uint8, device=device)
high = torch.zeros(data["batch"], side, side, 3, dtype=torch.uint8, device=device)
taught = torch.zeros(taught_crops, side, side, 3, dtype=torch.uint8, device=device)
turns = torch.zeros(data["batch"], 3, dtype=torch.bool, device=device)
damages = torch.zeros(data["batch"], 3, device=device)
bicubic = skip_filter(scale)[: scale**2].to(device)  # of one plane
keep = torch.zeros((), device=device)  # of the moving average
total = torch.zeros((), device=device)


def luma(crops):
    """uint8 [B, h, w, 3] -> [B, 1, h, w] in 0..1."""
    return torch.einsum("byxc,c->byx", crops.float() / 255, BT601).unsqueeze(1)


def fill():
    """The buffers: the teacher's crops first, then those of clips."""
    n = taught_crops
    if n:
        lessons.fill(low[:n], high[:n], taught, turns[:n], damages[:n])
    if n < len(low):
        clips.fill(low[n:], high[n:], turns[n:], damages[n:])


def train_step(dtype):
    """One step on what lies in the buffers."""
    lr, hr = turned(low, turns), turned(high, turns)
    frames = lr.movedim(-1, 1).float() / 255
    with torch.autocast(args.device.split(":")[0], torch.bfloat16, enabled=dtype == torch.bfloat16):
        denoised = net.denoise(frames)
        result = net.decoder.correction_at_lr(net.decoder.on_frames(denoised, frames))
        told = head(denoised.mean((2, 3), keepdim=True)).flatten(1)
    aim = luma(hr)
    if taught_crops:
        words = luma(turned(taught, turns[:taught_crops]))
        learnt = lesson(aim[:taught_crops], words, damages[:taught_crops], loss_weights["teacher"], loss_weights["sharpen"])
        aim = torch.cat([learnt, aim[taught_crops:]])
    if clips.scale > scale:
        aim = F.interpolate(aim, scale_factor=0.5, mode="bicubic", antialias=True)
    target = to_lr_grid(aim - F.pixel_shuffle(F.conv2d(pad_edges(luma(lr), 2), bicubic), scale), scale)
    loss = F.smooth_l1_loss(result.float(), target, beta=loss_weights["knee"])
    total.add_(loss.detach())
    if loss_weights["code"]:
        loss = loss + loss_weights["code"] * F.mse_loss(told.float(), damages)
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
    torch.mul(rate, OTHERS, out=others_rate)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
    with torch.no_grad():
        change = torch._foreach_sub([p.detach() for p in net.parameters()], ema)
        torch._foreach_mul_(change, 1 - keep)  # a tensor: it changes from step to step, a CUDA graph does not
        torch._foreach_add_(ema, change)


def faster_dtype():
    """float32, or bfloat16 where that is clearly faster: on a CPU without bfloat16 units it is ten times slower."""
    times = {}
    rate.zero_()
    keep.fill_(1)
    clock = time.perf_counter if cuda else time.process_time
    for dtype in 3 * [torch.float32, torch.bfloat16]:
        start = clock()
        train_step(dtype)
        if cuda:
            torch.cuda.synchronize()
        times[dtype] = min(times.get(dtype, float("inf")), clock() - start)
        if not cuda and times.get(torch.bfloat16, 0) > 4 * times[torch.float32]:
            break  # seconds a step: once is enough
    return torch.bfloat16 if times[torch.bfloat16] < 0.8 * times[torch.float32] else torch.float32


def captured(dtype):
    """`train_step` as a CUDA graph."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        train_step(dtype)
    return graph.replay


def prepared():
    """A function that makes one step, and the optimizer's state as if none had been made yet."""
    fill()
    dtype = faster_dtype()
    run = captured(dtype) if cuda else lambda: train_step(dtype)
    # Graphs hold the addresses of the optimizer's tensors, so these are set, not replaced.
    for number, optimizer in enumerate(optimizers):
        for index, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"]):
            for name, value in optimizer.state[parameter].items():
                value.copy_(resumed["optimizers"][number]["state"][index][name]) if resumed else value.zero_()
    total.zero_()
    of_teacher = f" and {len(lessons.lr)} crops of the teacher" if lessons else ""
    print(f"{config['network']} in {dtype}, {len(clips.entries)} clips and stills{of_teacher}, from step {step}", flush=True)
    return run


def averaged():
    """The state of the network with averaged weights."""
    return {name: value.clone() for (name, _), value in zip(net.named_parameters(), ema, strict=True)}


def save():
    states = [optimizer.state_dict() for optimizer in optimizers]
    state = {"learning": learning.state_dict(), "ema": averaged(), "optimizers": states}
    part = checkpoint_path.with_suffix(".tmp")
    try:
        torch.save(state | {"step": step, "minutes": minutes, "network": config["network"]}, part)
        part.rename(checkpoint_path)
    except (OSError, RuntimeError) as err:  # torch has errors of its own for a full disk
        part.unlink(missing_ok=True)
        raise SystemExit(f"cannot write {checkpoint_path}: {err}. The one before is kept; make room and start again") from err


val = examples(filter(None, args.val.split(",")), scale)


def evaluate():
    """Mean Y-PSNR of the averaged weights by folder or recipe, and a picture: LR, result, HR."""
    trained = {k: v.clone() for k, v in net.state_dict().items()}
    net.load_state_dict(averaged())
    scores, strips = {}, []
    for name, lr, hr in val:
        sr = upscale(net, lr)
        scores.setdefault(name, []).append(psnr_y(sr, hr, scale))
        if hr.shape[1] >= 192 and hr.shape[2] >= 256:
            strips.append(strip(lr, [sr], hr))
    net.load_state_dict(trained)
    if strips:
        Image.fromarray(np.concatenate(strips)).save(args.out / "val.png")
    return {k: round(float(np.mean(v)), 3) for k, v in scores.items()}


def log(scores, loss):
    path, row = (
        args.out / "log.csv",
        {"step": step, "minutes": round(minutes, 2), "rate": round(float(rate), 7), "loss": loss} | scores,
    )
    new = not path.exists()
    with path.open("a") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)
    print(row, flush=True)


run = prepared()
clock, saved, shown, since = time.time(), minutes, minutes, 0
while step < args.steps and minutes < args.minutes:
    left = 1 - max(minutes / args.minutes, step / args.steps)
    rate.fill_(optim["rate"] * min(1, (step + 1) / optim["warmup"], max(left / optim["decay"], 0.01)))
    keep.fill_(min(optim["ema"], (step + 1) / (step + 10)))
    fill()
    run()
    step, since = step + 1, since + 1
    if cuda and step % 8 == 0:
        torch.cuda.synchronize()  # so that the clock is the device's
    minutes, clock = minutes + (time.time() - clock) / 60, time.time()
    done = step >= args.steps or minutes >= args.minutes
    if done or minutes - saved > SAVE_MINUTES:
        loss = total.item() / since
        if not np.isfinite(loss):
            raise SystemExit(
                f"the loss is {loss} at step {step}; {checkpoint_path} is kept as it was: lower optim.rate, start again"
            )
        save()
        saved = minutes
        if done or minutes - shown > args.eval_minutes:
            log(evaluate(), round(loss, 6))
            total.zero_()
            shown, since = minutes, 0
        clock = time.time()
