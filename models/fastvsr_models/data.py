"""Clips: reading video folders, the cache of degraded clips, and the training batches.

`python -m fastvsr_models.data --clips DIR --cache DIR` decodes every clip and every still once and stores uint8 arrays, HR and
several degraded LR versions, so that training costs no decoding: a few frames of every clip, degraded as part of it, and stills.
Started again with more --kinds it adds what is missing.
"""

import argparse
import json
import re
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image

from .degrade import damage, degrade, harsh_recipe, random_codec, random_recipe

VIDEO_SUFFIXES = {".mp4", ".mkv", ".webm", ".mov", ".avi", ".y4m"}
PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}


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


def list_pictures(folder):
    return sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in PICTURE_SUFFIXES)


def crop_to_multiple(clip, multiple):
    height, width = (s // multiple * multiple for s in clip.shape[1:3])
    top, left = (clip.shape[1] - height) // 2, (clip.shape[2] - width) // 2
    return clip[:, top : top + height, left : left + width]


def source_of(stem):
    """The source video that a clip was cut from: names end in an excerpt number, cameras of one drive share its name."""
    drive = re.match(r"cosmos-(drive-[a-z]|night)", stem)
    return drive.group(0) if drive else re.sub(r"-\d$", "", stem)


def pan(image, rng, frames, height, width):
    """A clip from a still: a window that moves by whole pixels, so that no interpolation softens the target."""
    velocity = rng.uniform(-8, 8, 2) * rng.choice([0.25, 1.0])
    free = np.array([image.shape[0] - height, image.shape[1] - width])
    velocity = np.clip(velocity, -free / frames, free / frames)
    path = np.round(np.arange(frames)[:, None] * velocity).astype(int)
    path -= path.min(0)
    room = free - path.max(0)
    start = rng.integers(0, room + 1)
    return np.stack([image[y : y + height, x : x + width] for y, x in path + start])


def recipes_for(kind, rng):
    """The LR versions cached for one clip, by kind: the sampling weights of training are given per kind."""
    if kind == "bi":
        return ["bi"]
    if kind == "codec":
        return [f"bi+{random_codec(rng, 0, 1)}", f"bi+{random_codec(rng, 1, 2)}", f"bi+{random_codec(rng, 0, 2)}"]
    if kind == "real":
        return [random_recipe(rng), random_recipe(rng)]
    if kind == "harsh":
        return [harsh_recipe(rng), harsh_recipe(rng)]
    raise SystemExit(f"unknown kind {kind!r}; known: bi, codec, real, harsh")


def write_atomically(path, text):
    path.with_suffix(".tmp").write_text(text)
    path.with_suffix(".tmp").rename(path)


def build_cache(clips, cache, frames=4, scale=4, kinds=("bi", "codec", "real", "harsh"), seed=0):
    cache = Path(cache)
    cache.mkdir(parents=True, exist_ok=True)
    stills = Path(clips) / "stills"
    paths = (sorted(stills.iterdir()) if stills.is_dir() else []) + list_clips(clips)
    stored = cache / "index.json"
    index = json.loads(stored.read_text()) if stored.exists() else []
    entries = {entry["name"]: entry for entry in index}
    for number, path in enumerate(paths):
        still, name = path.parent == stills, path.stem
        missing = [kind for kind in kinds if name not in entries or kind not in entries[name]["kinds"]]
        if not missing:
            continue
        rng = np.random.default_rng([seed, number])
        if still:
            image = np.asarray(Image.open(path).convert("RGB"))
            # A still that pans has frames before it, as a codec wants them.
            hr = pan(image, rng, 6, *(side // 32 * 32 - 32 for side in image.shape[:2]))
        else:
            hr = crop_to_multiple(read_clip(path), 8)
        kept = np.array([len(hr) - 1]) if still else np.sort(rng.choice(len(hr), min(frames, len(hr)), replace=False))
        if name not in entries:
            np.save(cache / f"{name}.hr.npy", hr[kept])
            entries[name] = {"name": name, "source": name if still else source_of(name), "still": still, "kinds": {}}
            index.append(entries[name])
        for kind in missing:
            rng = np.random.default_rng([seed, number, *kind.encode()])
            files = []
            for recipe in recipes_for(kind, rng):
                # Where no frame looks at another, only those are made that are kept.
                lr = degrade(hr[kept], recipe, number, scale) if kind == "bi" else degrade(hr, recipe, number, scale)[kept]
                np.save(cache / f"{name}.{recipe}.npy", lr)
                files.append({"file": f"{name}.{recipe}.npy", "damage": damage(recipe)})
            entries[name]["kinds"][kind] = files
        write_atomically(stored, json.dumps(index))
        print(f"{number + 1}/{len(paths)} {name} {hr.shape}", flush=True)


def kinds_of(cache):
    """The kinds of degradation that everything in a cache has."""
    return set.intersection(*(set(entry["kinds"]) for entry in json.loads((Path(cache) / "index.json").read_text())))


class Clips:
    """Random training crops from a cache, all of it in the memory of `device` (on a CPU: memory-mapped).

    kinds: sampling weight per kind of degradation, e.g. {"bi": 0.5, "codec": 0.35, "real": 0.15}.
    soft: name prefixes whose sources are themselves compressed: sampled at `soft_weight`.
    Sources, not files, are weighted equally, stills together count as `still_weight` of all.
    """

    def __init__(self, cache, kinds, soft=(), soft_weight=0.3, still_weight=0.5, seed=0, device="cpu"):
        cache = Path(cache)
        if not (cache / "index.json").exists():
            raise SystemExit(f"no cache in {cache}: make it with `python -m fastvsr_models.data --clips CLIPS --cache {cache}`")
        self.kinds = kinds
        self.entries = [e for e in json.loads((cache / "index.json").read_text()) if set(kinds) <= set(e["kinds"])]
        if not self.entries:
            raise SystemExit(f"nothing in {cache} has all the kinds {', '.join(kinds)}: add them with --kinds")

        def load(file):
            array = torch.from_numpy(np.load(cache / file, mmap_mode="c"))
            return array if device == "cpu" else array.to(device)

        self.hr = [load(f"{e['name']}.hr.npy") for e in self.entries]
        self.lr = [{k: [(load(v["file"]), v["damage"]) for v in e["kinds"][k]] for k in kinds} for e in self.entries]
        self.scale = self.hr[0].shape[1] // next(iter(self.lr[0].values()))[0][0].shape[1]
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

    def fill(self, lr, hr, turns, damages):
        """One batch, uint8, into `lr` [B, h, w, 3] and `hr` [B, sh, sw, 3]; which way to turn it (see `turned`) and what was done
        to it into `turns` [B, 3] and `damages` [B, 3]."""
        crop, s, rng = lr.shape[1], self.scale, self.rng
        for b, pick in enumerate(rng.choice(len(self.hr), len(lr), p=self.weights)):
            kind = rng.choice(list(self.kinds), p=list(self.kinds.values()))
            versions = self.lr[pick][kind]
            low, damage = versions[rng.integers(len(versions))]
            t = rng.integers(len(low))
            y, x = (rng.integers(0, size - crop + 1) for size in low.shape[1:3])
            lr[b].copy_(low[t, y : y + crop, x : x + crop], non_blocking=True)
            high = self.hr[pick][t, s * y : s * (y + crop), s * x : s * (x + crop)]
            hr[b].copy_(high, non_blocking=True)
            # A codec favours the directions of its blocks: what went through one is mirrored sideways alone.
            ways = rng.random(3) < 0.5
            ways[[0, 2]] &= kind == "bi"
            turns[b].copy_(torch.from_numpy(ways), non_blocking=True)
            damages[b].copy_(torch.tensor(damage), non_blocking=True)

    def batch(self, size, crop):
        """New tensors, filled."""
        low = torch.zeros(size, crop, crop, 3, dtype=torch.uint8)
        high = torch.zeros(size, self.scale * crop, self.scale * crop, 3, dtype=torch.uint8)
        rest = torch.zeros(size, 3, dtype=torch.bool), torch.zeros(size, 3)
        self.fill(low, high, *rest)
        return low, high, *rest


def turned(crops, turns):
    """[B, h, w, C], each square mirrored upright, mirrored sideways, and transposed, or not."""
    for column, way in enumerate((lambda x: x.flip(1), lambda x: x.flip(2), lambda x: x.transpose(1, 2))):
        crops = torch.where(turns[:, column].view(-1, 1, 1, 1), way(crops), crops)
    return crops


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", required=True, help="folder of videos, with a subfolder stills/ or not")
    parser.add_argument("--cache", required=True, help="folder to write the arrays to")
    parser.add_argument("--frames", type=int, default=4, help="of each clip")
    parser.add_argument("--scale", type=int, default=4, choices=[2, 4])
    parser.add_argument("--kinds", default="bi,codec,real,harsh")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.frames < 1:
        parser.error(f"--frames: expected at least 1, got {args.frames}")
    build_cache(args.clips, args.cache, args.frames, args.scale, args.kinds.split(","), args.seed)
