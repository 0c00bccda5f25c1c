"""Clips: reading video folders, the cache of degraded clips, and the training batches.

`python -m fastvsr_models.data --clips DIR --cache DIR` decodes every clip and every still (as a panning clip) once and
stores uint8 arrays, HR and several degraded LR versions. Training then reads crops through memory maps and costs no decoding.
"""

import argparse
import json
import re
from pathlib import Path

import av
import cv2
import numpy as np
from PIL import Image

from .degrade import degrade, random_recipe, to_uint8

VIDEO_SUFFIXES = {".mp4", ".mkv", ".webm", ".mov", ".avi", ".y4m"}


def read_clip(path, frames=None):
    """Decode a video to uint8 RGB [T, H, W, 3], by the stream's own colour tags (BT.601 where untagged, as swscale does)."""
    out = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            out.append(frame.reformat(format="rgb24", src_colorspace=frame.colorspace).to_ndarray())
            if frames and len(out) == frames:
                break
    return np.stack(out)


def list_clips(folder):
    return sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in VIDEO_SUFFIXES)


def crop_to_multiple(clip, multiple):
    height, width = (s // multiple * multiple for s in clip.shape[1:3])
    top, left = (clip.shape[1] - height) // 2, (clip.shape[2] - width) // 2
    return clip[:, top : top + height, left : left + width]


def source_of(stem):
    """The source video that a clip was cut from: names end in an excerpt number, cameras of one drive share its name."""
    drive = re.match(r"cosmos-(drive-[a-z]|night)", stem)
    return drive.group(0) if drive else re.sub(r"-\d$", "", stem)


def pan(image, rng, frames=16, height=384, width=512):
    """A clip from a still: a window that moves by whole pixels, so that no interpolation softens the target."""
    velocity = rng.uniform(-8, 8, 2) * rng.choice([0.25, 1.0])
    free = np.array([image.shape[0] - height, image.shape[1] - width])
    velocity = np.clip(velocity, -free / frames, free / frames)
    path = np.round(np.arange(frames)[:, None] * velocity).astype(int)
    path -= path.min(0)
    room = free - path.max(0)
    start = rng.integers(0, room + 1)
    return np.stack([image[y : y + height, x : x + width] for y, x in path + start])


def sharpened(clip, amount):
    """Unsharp mask, sigma 1.5, on uint8 [T, H, W, 3]: what a compressed source has lost a pixel loss gives back only halfway."""
    soft = np.stack([cv2.GaussianBlur(frame, (0, 0), 1.5) for frame in clip])
    return to_uint8(clip + amount * (clip.astype(np.float32) - soft))


def recipes_for(rng):
    """The LR versions cached for one clip, by kind: the sampling weights of training are given per kind."""
    return {
        "bi": ["bi"],
        "codec": [
            f"bi+h264-{rng.integers(17, 25)}",
            f"bi+h264-{rng.integers(25, 30)}",
            f"bi+h264-{rng.integers(30, 36)}",
            f"bi+h265-{rng.integers(22, 34)}",
        ],
        "real": [random_recipe(rng), random_recipe(rng)],
    }


def build_cache(clips, cache, seed=0):
    cache = Path(cache)
    cache.mkdir(parents=True, exist_ok=True)
    stills = Path(clips) / "stills"
    paths = list_clips(clips) + (sorted(stills.iterdir()) if stills.is_dir() else [])
    stored = cache / "index.json"
    index = json.loads(stored.read_text()) if stored.exists() else []
    for number, path in enumerate(paths):
        rng = np.random.default_rng([seed, number])
        still = path.parent == stills
        if any(e["name"] == path.stem for e in index):
            continue
        hr = pan(np.asarray(Image.open(path).convert("RGB")), rng) if still else crop_to_multiple(read_clip(path), 8)
        np.save(cache / f"{path.stem}.hr.npy", hr)
        entry = {"name": path.stem, "source": path.stem if still else source_of(path.stem), "still": still, "kinds": {}}
        for kind, recipes in recipes_for(rng).items():
            entry["kinds"][kind] = []
            for recipe in recipes:
                file = f"{path.stem}.{recipe}.npy"
                lr = degrade(hr, recipe, seed=number)
                assert len(lr) == len(hr), (path, recipe, len(lr), len(hr))
                np.save(cache / file, lr)
                entry["kinds"][kind].append(file)
        index.append(entry)
        stored.write_text(json.dumps(index, indent=1))
        print(f"{number + 1}/{len(paths)} {path.stem} {hr.shape}", flush=True)


class Clips:
    """Random training crops from a cache.

    kinds: sampling weight per kind of degradation, e.g. {"bi": 0.5, "codec": 0.35, "real": 0.15}.
    sharpen: by how much targets are sharpened, per kind, e.g. {"codec": 0.3} (see `sharpened`).
    soft: name prefixes whose sources are themselves compressed: sampled at `soft_weight`.
    Sources, not files, are weighted equally, stills together count as `still_weight` of all.
    """

    def __init__(self, cache, kinds, sharpen=None, soft=(), soft_weight=0.3, still_weight=0.2, seed=0):
        self.cache, self.kinds, self.sharpen = Path(cache), kinds, sharpen or {}
        self.entries = json.loads((self.cache / "index.json").read_text())
        files_per_source = {}
        for e in self.entries:
            files_per_source[e["source"]] = files_per_source.get(e["source"], 0) + 1
        weights = []
        for e in self.entries:
            weight = files_per_source[e["source"]] ** -0.5
            weights.append(weight * soft_weight if e["name"].startswith(tuple(soft)) else weight)
        weights, stills = np.array(weights), np.array([e["still"] for e in self.entries])
        for group, share in ((stills, still_weight), (~stills, 1 - still_weight)):
            if group.any():
                weights[group] *= share / weights[group].sum()
        self.weights = weights / weights.sum()
        self.rng = np.random.default_rng(seed)

    def sample(self, frames, crop):
        """One training pair, uint8: LR [frames, crop, crop, 3] and HR [frames, 4 crop, 4 crop, 3]."""
        rng = self.rng
        entry = self.entries[rng.choice(len(self.entries), p=self.weights)]
        kind = rng.choice(list(self.kinds), p=list(self.kinds.values()))
        lr = np.load(self.cache / rng.choice(entry["kinds"][kind]), mmap_mode="r")
        hr = np.load(self.cache / f"{entry['name']}.hr.npy", mmap_mode="r")
        t = rng.integers(0, len(lr) - frames + 1)
        y, x = (rng.integers(0, size - crop + 1) for size in lr.shape[1:3])
        lr = lr[t : t + frames, y : y + crop, x : x + crop]
        hr = hr[t : t + frames, 4 * y : 4 * (y + crop), 4 * x : 4 * (x + crop)]
        if kind in self.sharpen:
            hr = sharpened(hr, self.sharpen[kind])
        # A codec looks back in time and favours its block directions, so compressed clips keep both.
        turns = rng.integers(0, 4) if kind != "codec" else 0
        flips = [axis for axis in ((0, 1, 2) if kind != "codec" else (2,)) if rng.random() < 0.5]
        return [np.rot90(np.flip(clip, flips), turns, (1, 2)) for clip in (lr, hr)]

    def batch(self, size, frames, crop):
        """uint8 arrays [B, T, h, w, 3] and [B, T, 4h, 4w, 3]."""
        pairs = [self.sample(frames, crop) for _ in range(size)]
        return [np.stack(side) for side in zip(*pairs, strict=True)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", required=True, help="folder of videos, with a subfolder stills/ or not")
    parser.add_argument("--cache", required=True, help="folder to write the arrays to")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    build_cache(args.clips, args.cache, args.seed)
