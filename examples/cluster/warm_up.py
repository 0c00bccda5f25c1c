"""Measures after how many frames a run that began later gives the pictures of one that began at the first frame.

    python -m cluster.warm_up CLIPS

Every clip of a folder is scaled down four times and upscaled once whole, then from later frames on. Printed is the PSNR
between both for the n-th frame after such a beginning, the worst of all beginnings, and after how many frames it stays
at 50 dB or above.
"""

import argparse
from pathlib import Path

import numpy as np

from .media import DECODE, Gst, on_frames, play

STARTS = (4, 8, 12, 16)
SHOWN = (0, 1, 2, 4, 6, 8, 12, 15)
ENOUGH = 50.0


def upscale(path, start, properties):
    """The frames of a clip from number `start` on, scaled down and upscaled again, flat RGB."""
    pipeline = Gst.parse_launch(
        f"{DECODE.format(path)} ! videoscale method=catrom ! capsfilter name=small ! "
        f"fastvsr {properties} ! video/x-raw,format=RGB ! fakesink name=sink sync=false"
    )
    small, number, frames = pipeline.get_by_name("small"), -1, []

    def size(pad, info):
        event = info.get_event()
        if event.type == Gst.EventType.CAPS:
            caps = event.parse_caps().get_structure(0)
            sides = (caps.get_int(side)[1] // 4 for side in ("width", "height"))
            small.set_property("caps", Gst.Caps.from_string("video/x-raw,format=RGB,width={},height={}".format(*sides)))
        return Gst.PadProbeReturn.OK

    def skip(_time, _buffer):
        nonlocal number
        number += 1
        return number >= start

    decoded = pipeline.get_by_name("decoded").get_static_pad("sink")
    decoded.add_probe(Gst.PadProbeType.EVENT_DOWNSTREAM, size)
    on_frames(small.get_static_pad("src"), skip)
    sink = pipeline.get_by_name("sink").get_static_pad("sink")
    on_frames(sink, lambda _, buffer: frames.append(np.frombuffer(buffer.extract_dup(0, buffer.get_size()), np.uint8)))
    play(pipeline)
    return frames


def psnr(a, b):
    error = np.square(a.astype(np.float32) - b).mean()
    return 10 * np.log10(255**2 / error) if error else np.inf


def measure(path, properties):
    """PSNR of the n-th frame after a beginning, the worst of all beginnings."""
    whole = upscale(path, 0, properties)
    worst = {}
    for start in STARTS:
        for n, frame in enumerate(upscale(path, start, properties)):
            worst[n] = min(worst.get(n, np.inf), psnr(whole[start + n], frame))
    return [worst[n] for n in range(len(worst))]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m cluster.warm_up", description=__doc__.splitlines()[0])
    parser.add_argument("clips", type=Path)
    parser.add_argument("--properties", default="", help="properties of fastvsr, as 'model=foo.onnx precision=fp32'")
    args = parser.parse_args()
    print("| clip |", " | ".join(f"frame {n}" for n in SHOWN), f"| {ENOUGH:.0f} dB after |")
    print("|---|" + "---|" * (len(SHOWN) + 1))
    for path in sorted(args.clips.iterdir()):
        curve = measure(path, args.properties)
        after = max((n + 1 for n, value in enumerate(curve) if value < ENOUGH), default=0)
        cells = (f"{curve[n]:.1f}" if n < len(curve) else "" for n in SHOWN)
        print(f"| {path.stem} |", " | ".join(cells), f"| {after if after < len(curve) else 'never'} |", flush=True)
