"""Measures GPUs: the section "GPU" of RESULTS.md, written anew with every row. Started by gpu.sh.

Every provider first has to make the CPU's picture, in the arithmetic that is its own choice. Videos run through
gst-launch-1.0 into a sink that tells of every frame, as in bench.py, so a frame's time has all conversions in it.
Of Python's packages NumPy is enough.
"""

import argparse
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from report import GPU, Report, markdown, sized
from runs import PLUGIN, branch, element, environment, play

ROOT = Path(__file__).resolve().parent.parent
CLIP = PLUGIN / "clip.rgb"  # RGB, WIDTH x HEIGHT
WIDTH, HEIGHT = 320, 180
PACKAGES = [ROOT / "models/compact-s", ROOT / "models/compact-xs-clean"]
# Width, height, scale, and the frames a second that are wanted of compact-s.
SIZES = [(320, 180, 4, None), (640, 360, 4, None), (960, 540, 4, 60), (1920, 1080, 2, 60)]
# TF32 and half precision have 11 bits, and products are added up by the hundred: levels of 255.
LARGEST, MEAN = 4, 0.25
STAGES = ("encoder", "unet", "decoder", "convert")


def picture(package, provider):
    """The clip as the element upscales it: RGB bytes."""
    with tempfile.NamedTemporaryFile(suffix=".rgb") as file:
        pipeline = (
            f"filesrc location={CLIP} blocksize={3 * WIDTH * HEIGHT} "
            f"! rawvideoparse format=rgb width={WIDTH} height={HEIGHT} framerate=25/1 "
            f"! {element(package, provider)} ! video/x-raw,format=RGB ! filesink location={file.name}"
        )
        subprocess.run(["gst-launch-1.0", "-q", *pipeline.split()], check=True, env=environment())
        return np.fromfile(file.name, np.uint8)


def difference(got, expected):
    """Largest and mean difference, in levels; a few frames at a time, as a clip is large."""
    if got.size != expected.size:
        raise SystemExit(f"expected {expected.size} bytes of video, got {got.size}")
    parts = [
        np.abs(a.astype(np.int16) - b)
        for a, b in zip(np.array_split(got, 64), np.array_split(expected, 64), strict=True)
    ]
    return int(max(part.max() for part in parts)), float(np.mean([part.mean() for part in parts]))


def speed(report, package, provider, frames, size):
    """A row of the table of times."""
    width, height, scale, wanted = size
    line = branch(width, height, frames, f"{element(package, provider)} scale={scale}", "NV12")
    played = play(line)[0]
    fps, size = 1 / played.steady, sized(width, height, scale)
    stages = [f"{played.stats[stage]:.2f}" for stage in STAGES]
    if wanted and package.name == "compact-s":
        report.goal(f"{provider}, {size}: >= {wanted} frames a second", f"{fps:.1f}", fps >= wanted)
    return [package.name, provider, size, f"{played.first:.2f}", f"{1e3 / fps:.2f}", f"{fps:.1f}", *stages]


def gpus():
    """Models and driver."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip().splitlines()
    except (OSError, subprocess.CalledProcessError):
        return ["a GPU that nvidia-smi does not tell of"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--providers", default="cuda", help="comma-separated, as in execution-provider")
    parser.add_argument("--frames", type=int, default=120, help="of every measured video")
    parser.add_argument("--out", type=Path, default=ROOT / "benches/RESULTS.md")
    args = parser.parse_args()
    report, times, pictures, failed = Report(), [], [], []
    for package in PACKAGES:
        expected = picture(package, "cpu")
        for provider in args.providers.split(","):
            try:
                got = picture(package, provider)
            except subprocess.CalledProcessError:
                # What is missing was printed by the element.
                failed.append(f"{package.name} does not run with {provider}")
                continue
            largest, mean = difference(got, expected)
            good = largest <= LARGEST and mean <= MEAN
            failed += [] if good else [f"{package.name} with {provider} does not make the CPU's picture"]
            pictures.append([package.name, provider, largest, f"{mean:.3f}", "yes" if good else "no"])
            for size in SIZES:
                times.append(speed(report, package, provider, args.frames, size))
                print(*times[-1], flush=True)
                # Whoever has the machine for minutes keeps what was measured until then.
                write(args, report, times, pictures)
    if failed:
        raise SystemExit("\n".join(failed))


def write(args, report, times, pictures):
    """Puts the section in its place, at the end of the file."""
    about = (
        f"`benches/gpu.sh --providers {args.providers}` on {time.strftime('%Y-%m-%d')}: {'; '.join(gpus())}. "
        f"NV12 in and out, {args.frames} frames, stages in milliseconds a frame."
    )
    against = f"A clip against the CPU's, in levels of 255: at most {LARGEST}, and {MEAN} on average."
    header = [
        "package",
        "provider",
        "size",
        "first frame s",
        "ms a frame",
        "fps",
        "encoder",
        "UNet",
        "decoder",
        "conversion",
    ]
    parts = [GPU.strip(), about, report.goals_table(), "\n".join(markdown(header, times)), against]
    parts.append("\n".join(markdown(["package", "provider", "largest", "mean", "good"], pictures)))
    before = args.out.read_text().partition(GPU)[0] if args.out.exists() else "# Measured speed\n"
    args.out.write_text(f"{before}\n" + "\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
