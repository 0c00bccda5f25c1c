"""Plans the work: cuts a video into segments and writes the manifest that workers and join go by.

    python -m cluster.plan film.mp4 job/manifest.json

A segment begins at a scene cut where there is one, else at a keyframe, where decoding can begin. The element forgets at
scene cuts by itself; a segment that begins elsewhere is given WARM_UP frames before it, which its worker upscales and
throws away, so that the recurrent state is what it would have been.
"""

import argparse
import json
import os
from pathlib import Path

import numpy as np

from .media import DECODE, Gst, model_hash, on_frames, play

# Frames until the pictures are those of the uninterrupted run: `python -m cluster.warm_up` measures it.
WARM_UP = 16

# The element begins anew above 12; what is clearly more is a cut there as well, though the thumbnails differ slightly.
CLEAR_CUT = 18.0

ENCODER = "x264enc pass=quant quantizer=18 speed-preset=veryfast ! video/x-h264,profile=high"


def difference(a, b):
    """How different two thumbnails are, as in src/scene.rs: mean brightness change x (1 - correlation)."""
    change = np.abs(a - b).mean()
    a, b = a - a.mean(), b - b.mean()
    energy = np.sqrt((a * a).sum() * (b * b).sum())
    return change * (1 - ((a * b).sum() / energy if energy else 1))


def survey(source):
    """Decodes a video once: stream times of its frames in ns, which are keyframes, which begin a scene."""
    pipeline = Gst.parse_launch(
        f"{DECODE.format(source)} ! videoscale ! video/x-raw,format=GRAY8,width=32,height=18 ! fakesink name=sink"
    )
    times, keys, cuts, last = [], set(), set(), None

    def decoder_added(_bin, _sub_bin, element):
        if "Decoder/Video" in (element.get_metadata("klass") or ""):
            on_frames(element.get_static_pad("sink"), packet)

    def packet(time, buffer):
        if not buffer.has_flags(Gst.BufferFlags.DELTA_UNIT):
            keys.add(time)

    def frame(time, buffer):
        nonlocal last
        thumbnail = np.frombuffer(buffer.extract_dup(0, 32 * 18), np.uint8).astype(np.float32)
        if last is not None and difference(last, thumbnail) > CLEAR_CUT:
            cuts.add(len(times))
        times.append(time)
        last = thumbnail

    pipeline.connect("deep-element-added", decoder_added)
    on_frames(pipeline.get_by_name("sink").get_static_pad("sink"), frame)
    play(pipeline)
    return times, {n for n, time in enumerate(times) if time in keys}, cuts


def split(frames, keys, cuts, length, warm_up):
    """Segments of about `length` frames: (first frame, frames, warm-up frames before the first)."""
    starts = [0]
    while frames - starts[-1] > 1.5 * length:
        ideal = starts[-1] + length
        near = sorted(range(starts[-1] + length // 2 + 1, ideal + length // 2), key=lambda n: abs(n - ideal))
        starts.append(next((n for places in (cuts, keys) for n in near if n in places), ideal))
    for first, end in zip(starts, [*starts[1:], frames], strict=True):
        scene = max((n for n in {0} | cuts if n <= first), default=0)
        yield first, end - first, min(warm_up, first - scene)


def plan(source, manifest, length=500, warm_up=WARM_UP, model="compact-s", properties="", encoder=ENCODER):
    """Writes the manifest of a source. Its path is stored relative to the manifest's folder, which all machines see."""
    times, keys, cuts = survey(source)
    if not times:
        raise SystemExit(f"{source}: expected a video, got no frame")
    folder = Path(manifest).parent
    folder.mkdir(parents=True, exist_ok=True)
    head = {
        "format": 1,
        "source": os.path.relpath(source, folder),
        "frames": len(times),
        "model": {"name": model, "sha256": model_hash(model)},
        "properties": properties,
        "encoder": encoder,
    }
    segments = [
        {"first": first, "frames": frames, "warm_up": warm, "seek": times[first - warm], "pts": times[first:][:frames]}
        for first, frames, warm in split(len(times), keys, cuts, length, warm_up)
    ]
    # One line for each segment: the list of times is long.
    text = json.dumps(head, indent=2)[:-2] + ',\n  "segments": [\n    '
    text += ",\n    ".join(json.dumps(segment) for segment in segments) + "\n  ]\n}\n"
    Path(manifest).write_text(text)
    return json.loads(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m cluster.plan", description=__doc__.splitlines()[0])
    parser.add_argument("source")
    parser.add_argument("manifest")
    parser.add_argument("--length", type=int, default=500, help="frames in a segment, about")
    parser.add_argument("--warm-up", type=int, default=WARM_UP, help="frames upscaled before a segment and thrown away")
    parser.add_argument("--model", default="compact-s", help="the embedded model, or a package's folder")
    parser.add_argument("--properties", default="", help="properties of fastvsr, as 'execution-provider=cpu window=4'")
    parser.add_argument("--encoder", default=ENCODER, help="elements after fastvsr, as for gst-launch-1.0")
    planned = plan(**vars(parser.parse_args()))
    print(f"{planned['frames']} frames in {len(planned['segments'])} segments")
