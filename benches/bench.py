"""Measures this machine in one run, `make bench [PEERS=realesr-animevideov3-x4.param]`: RESULTS.md and chart.svg.

What is compared is measured in turn, round after round, and ratios are medians over the rounds, because machines are
noisy. Videos run through gst-launch-1.0 into a sink that tells of every frame, so that one run gives the first frame
(process start, model, upscaling), the steady state (the median interval) and the peak memory of the process. The
baselines are packages of the same network: see fastvsr_models.baselines. Peers are other people's networks, by path.
"""

import argparse
import functools
import itertools
import os
import platform
import statistics
import subprocess
import tempfile
import time
import tomllib
from pathlib import Path

import numpy as np
import onnxruntime as ort
import peers
import torch
from bare import Bare, has_openvino, padded, seconds, session
from chart import chart
from fastvsr_models.baselines import export_baselines
from fastvsr_models.macs import count_package
from fastvsr_models.networks import FastVSR
from report import GPU, Report, sized
from runs import branch, element, has_bf16, play

ROOT = Path(__file__).resolve().parent.parent
CLIP = 33  # frames, as in the paper
SIZES = [(320, 180), (640, 360)]
LARGER = [(320, 180), (480, 270), (640, 360), (960, 540)]
PROVIDERS = [*(["openvino"] if has_openvino() else []), "cpu"]


def in_turn(contestants, rounds):
    """{name: function} -> {name: results}, one of each in every round."""
    results = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            results[name].append(run())
    return results


def median(values):
    return statistics.median(values)


def ratio(over, under):
    """Median over the rounds of the ratio of neighbours."""
    return median([a / b for a, b in zip(over, under, strict=True)])


def ms(times):
    return f"{median(times) * 1e3:.1f}"


def against_baselines(report, package, baselines, rounds):
    """The f16 pipeline against the f8 one with one step and with 50."""
    ours, f8, f8_50 = package.name, "f8, 1 step", "f8, 50 steps"
    packages = {ours: package, f8: baselines / "f8-one-step", f8_50: baselines / "f8-50-steps"}
    manifest = tomllib.loads((package / "model.toml").read_text())
    kmacs = {name: sum(count_package(path).values()) for name, path in packages.items()}
    floor = {name: play(branch(16, 16, 3, element(path)))[0].peak for name, path in packages.items()}
    rows = []
    for width, height in SIZES:
        size, large = sized(width, height), width > 320
        frames = {ours: CLIP, f8: CLIP, f8_50: 5 if large else 8}
        pipelines = {name: branch(width, height, frames[name], element(path)) for name, path in packages.items()}
        runs = {name: lambda line=line: play(line)[0] for name, line in pipelines.items()}
        results = in_turn(runs, min(rounds, 2) if large else rounds)
        steady = {name: [r.steady for r in played] for name, played in results.items()}
        peak = {name: median([r.peak for r in played]) for name, played in results.items()}
        pixels = CLIP * padded(width, manifest) * padded(height, manifest)
        for name, played in results.items():
            rows.append(
                [
                    size,
                    name,
                    f"{kmacs[name] * pixels / 1e9:.2f}",
                    f"{median(steady[name]) * CLIP:.2f}",
                    ms(steady[name]),
                    f"{median([r.first for r in played]):.2f}",
                    f"{peak[name] / 2**20:.0f}",
                    f"{(peak[name] - floor[name]) / 2**20:.0f}",
                    f"{ratio(steady[name], steady[ours]):.2f}",
                    f"{kmacs[name] / kmacs[ours]:.2f}",
                ]
            )
        for name, wanted in ((f8, 3.92), (f8_50, 111.9)):
            times, work = ratio(steady[name], steady[ours]), kmacs[name] / kmacs[ours]
            report.goal(
                f"{size}: >= {wanted}x as fast as {name}", f"{times:.2f}x, of {work:.2f}x the work", times >= wanted
            )
        saved = 1 - peak[ours] / peak[f8]
        working = 1 - (peak[ours] - floor[ours]) / (peak[f8] - floor[f8])
        got = f"{saved:.0%} of the process, {working:.0%} of what frames take"
        report.goal(f"{size}: >= 46 % less peak memory than {f8}", got, saved >= 0.46)
        if not large:
            for name in packages:
                report.bar(name if name == ours else f"the same network, {name}", median(steady[name]), name == ours)
    header = [
        "size",
        "pipeline",
        "TMACs",
        "s",
        "ms a frame",
        "first frame s",
        "peak MB",
        "of it for frames",
        "time",
        "work",
    ]
    about = (
        f"TMACs and seconds are for {CLIP} frames in the steady state; time and work are relative to `{ours}`. "
        "All have the same layers and weights; 50 steps are timed on fewer frames. The memory that is not for frames "
        "is what a process has after 16x16 ones."
    )
    report.table("Against the f8 pipelines", about, header, rows)


def choices(report, package, baselines, rounds):
    """What single choices in the decoder cost: decoders alone, as bare graphs."""
    shipped = "as shipped: copy and shuffle folded"
    packages = {
        shipped: package,
        "copy folded, features at full resolution": baselines / "copy-folded",
        "copy not folded, as in the paper": baselines / "copy",
        "not conditioned on the LR frame": baselines / "unconditioned",
    }
    kmacs = {name: count_package(path)["decoder"] for name, path in packages.items()}
    rows = []
    for size in SIZES:
        runs = {}
        for name, path in packages.items():
            bare = Bare(path, PROVIDERS[0], *size)
            bare.step()
            runs[name] = lambda bare=bare: seconds(bare.decode, 10)
        results = in_turn(runs, rounds)
        for name, times in results.items():
            rows.append([sized(*size), name, f"{kmacs[name]:.1f}", ms(times), f"{ratio(times, results[shipped]):.2f}"])
    header = ["size", "decoder", "kMAC per LR pixel", "ms a frame", "time"]
    report.table("Choices in the decoder", f"The decoder alone, {PROVIDERS[0]}.", header, rows)


def against_bare(report, packages, rounds):
    """The element against its graphs alone."""
    rows = []
    for package, provider in itertools.product(packages, PROVIDERS):
        bare = Bare(package, provider, *SIZES[0])
        runs = {"bare": lambda bare=bare: seconds(bare.step, CLIP)}
        for caps in ("RGB", "I420"):
            pipeline = branch(*SIZES[0], CLIP, element(package, provider), caps)
            runs[caps] = lambda pipeline=pipeline: play(pipeline)[0]
        results = in_turn(runs, rounds)
        alone = results.pop("bare")
        for caps, played in results.items():
            steady, first = [r.steady for r in played], median([r.first for r in played])
            kept, fps = ratio(alone, steady), 1 / median(steady)
            about = [package.name, provider, caps]
            rows.append([*about, f"{first:.2f}", ms(steady), f"{fps:.1f}", ms(alone), f"{kept:.3f}"])
            report.goal(f"{', '.join(about)}: element >= 0.95x the bare graphs", f"{kept:.3f}", kept >= 0.95)
    header = ["package", "provider", "format", "first frame s", "ms a frame", "fps", "bare graphs ms", "bare / element"]
    report.table("The element against the bare graphs", f"{sized(*SIZES[0])}.", header, rows)


def where_time_goes(report, package, rounds):
    """The element's own account of a frame."""
    rows = []
    for caps in ("RGB", "I420", "NV12"):
        played = [play(branch(*SIZES[0], 5 * CLIP, element(package), caps))[0] for _ in range(rounds)]
        played = sorted(played, key=lambda one: sum(one.stats.values()))[len(played) // 2]
        total = sum(played.stats.values())
        share = played.stats["convert"] / total
        rows.append(
            [caps, *(f"{played.stats[name]:.1f}" for name in ("encoder", "unet", "decoder", "convert")), f"{share:.1%}"]
        )
        if caps != "NV12":
            report.goal(f"{package.name}, {caps}: < 5 % outside ONNX Runtime", f"{share:.1%}", share < 0.05)
    about = f"`{package.name}`, {sized(*SIZES[0])}, {5 * CLIP} frames; milliseconds a frame as `stats` has them."
    report.table("Where the time goes", about, ["format", "encoder", "UNet", "decoder", "conversion", "of all"], rows)


def against_peers(report, package, param, rounds):
    """Other people's networks without any conversion of pixels, ours with everything; Lanczos as the floor."""
    width, height = SIZES[0]
    ours = f"{package.name} (the element)"
    lanczos = f"videoscale method=lanczos ! video/x-raw,width={4 * width},height={4 * height}"
    runs = {
        ours: lambda: play(branch(width, height, CLIP, element(package)))[0].steady,
        "Lanczos (GStreamer's videoscale)": lambda: play(branch(width, height, 300, lanczos))[0].steady,
        "Lanczos (ffmpeg's scale)": lambda: peers.ffmpeg_lanczos(width, height),
    }
    versions = f"ffmpeg {peers.ffmpeg_version()}"
    if param:
        planes = np.random.default_rng(0).random((3, height, width), np.float32)
        net, graph = peers.Ncnn(param, os.cpu_count()), peers.to_onnx(param)
        expected, versions = net(planes), f"{versions}, ncnn {net.ncnn.__version__}"
        runs[f"{param.stem} (ncnn)"] = lambda: seconds(lambda: net(planes), 8)
        for provider, precision in itertools.product(PROVIDERS, ("f32", "bf16")):
            if precision == "bf16" and (provider == "cpu" or not has_bf16()):
                continue
            run = functools.partial(session(graph, provider, precision).run, ["output"], {"data": planes[None]})
            difference = np.abs(run()[0][0] - expected).max()
            if difference > 0.1:
                raise SystemExit(f"{param.stem} in {provider} is not what ncnn computes: they differ by {difference}")
            runs[f"{param.stem} ({provider}, {precision})"] = lambda run=run: seconds(run, 8)
    results = in_turn(runs, rounds)
    rows = []
    for name, times in sorted(results.items(), key=lambda item: median(item[1])):
        slower = ratio(times, results[ours])
        rows.append([name, ms(times), f"{1 / median(times):.1f}", f"{slower:.2f}"])
        if "ncnn" in name:
            report.goal(f"{package.name}: >= 4x as fast as {name}", f"{slower:.2f}x", slower >= 4)
        if name != ours:
            report.bar(name, median(times))
    about = (
        f"{sized(width, height)}, all cores; {versions}. The networks of others are timed alone, the element with all "
        "conversions of pixels."
    )
    if not param:
        about += " No network was given: `make bench PEERS=FILE.param`."
    report.table("Others", about, ["upscaler", "ms a frame", "fps", "time"], rows)


def larger_frames(report, package, rounds):
    """Time and memory by frame size, up to 4K."""
    pipelines = {size: branch(*size, 14 if size[0] < 900 else 8, element(package)) for size in LARGER}
    results = in_turn({size: lambda line=line: play(line)[0] for size, line in pipelines.items()}, rounds)
    per_pixel = {size: [r.steady / (size[0] * size[1]) for r in played] for size, played in results.items()}
    rows = []
    for size, played in results.items():
        relative = ratio(per_pixel[size], per_pixel[LARGER[0]])
        nanoseconds, peak = median(per_pixel[size]) * 1e9, median([r.peak for r in played]) / 2**20
        rows.append(
            [sized(*size), ms([r.steady for r in played]), f"{nanoseconds:.0f}", f"{relative:.2f}", f"{peak:.0f}"]
        )
    got = f"at {sized(*size)} {relative:.2f}x as much a pixel as at {sized(*LARGER[0])}"
    report.goal(f"{package.name}: cost linear in pixels up to 4K", got, relative <= 1.2)
    header = ["size", "ms a frame", "ns per LR pixel", "relative", "peak MB"]
    report.table("Larger frames", f"`{package.name}`.", header, rows)


def two_instances(report, package, rounds):
    """Two elements in one process, which share the model, against two processes that have one each."""
    one = branch(*SIZES[0], CLIP, element(package))

    def rate(*pipelines):
        """Frames a second of all sinks together, while all of them run."""
        sinks = [times for played in play(*pipelines) for times in played.sinks]
        begin, end = max(times[2] for times in sinks), min(times[-1] for times in sinks)
        return sum(begin < time <= end for times in sinks for time in times) / (end - begin)

    runs = {
        "one": lambda: rate(one),
        "two in one process, one model": lambda: rate(f"{one} {one}"),
        "two processes, two models": lambda: rate(one, one),
    }
    alone, shared, separate = in_turn(runs, rounds).values()
    kept = ratio(shared, separate)
    report.goal(f"{package.name}: two instances sharing a model >= 0.9x two alone", f"{kept:.2f}", kept >= 0.9)
    rows = [[name, f"{median(fps):.1f}"] for name, fps in zip(runs, (alone, shared, separate), strict=True)]
    about = f"`{package.name}`, {sized(*SIZES[0])}, frames a second of all instances together."
    report.table("Two instances", about, ["instances", "fps"], rows)


def conditions(rounds, param):
    """Machine, versions, date and command."""
    about = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in about if line.startswith("model name")), platform.processor())
    version = subprocess.run(["gst-launch-1.0", "--version"], check=True, capture_output=True, text=True).stdout
    command = "make bench" + (f" PEERS={param.name}" if param else "")
    return (
        f"`{command}` on {time.strftime('%Y-%m-%d')}: {os.cpu_count()} cores of {cpu}, {platform.machine()}; Linux "
        f"{platform.release()}, GStreamer {version.split()[2]}, ONNX Runtime {ort.__version__}. Medians of {rounds} "
        f"rounds, in which all that is compared ran in turn. Where no provider is named it is {PROVIDERS[0]}, in "
        f"{'bfloat16' if has_bf16() else 'single precision'}, as the graphs beside it; the element's own choice may be "
        "8-bit integers."
    )


REASONS = """\
Where goals are not reached:

- **3.92x.** On the latent grid and in the decoder's trunk everything costs four times as much in the f8 pipeline, but
  not the last convolution: ours, folded, has 12 outputs at 2H, that of f8 has 3 at 4H, which is the same work.
- **111.9x** is the paper's system beside another network of 50 steps, a diffusion UNet that is nearly all of its
  pipeline's work. Here all pipelines have one network, and its UNet is a small part; the column "work" bounds what 50
  evaluations can cost, and they are the cheapest work there is: small grids and many channels.
- **46 %.** A process has memory that no frame takes (GStreamer, ONNX Runtime, OpenVINO); small frames do not hide it.
- **0.95x and 5 %** of YUV: a decoded frame is read from memory again and made YUV by cores that would go on with the
  network. The faster the network, the more that is.
- **Linear.** At 320x180 tensors lie in the CPU's caches; from 480x270 on they do not.
"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, help="a network in ncnn's format, FILE.param with FILE.bin beside it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "benches", help="folder for RESULTS.md and chart.svg")
    args = parser.parse_args()
    began, report = time.time(), Report()
    # The pipelines beside it are made of its own weights.
    package = ROOT / "models/compact-s"
    shipped = [package, ROOT / "models/compact-xs-clean"]
    checkpoint = torch.load(ROOT / f"models/checkpoints/{package.name}.pt", map_location="cpu", weights_only=True)
    net = FastVSR(checkpoint["network"])
    net.load_state_dict(checkpoint["ema"])
    with tempfile.TemporaryDirectory() as folder:
        baselines = Path(folder)
        export_baselines(net, baselines)
        against_baselines(report, package, baselines, args.rounds)
        choices(report, package, baselines, args.rounds)
        against_bare(report, shipped, args.rounds)
        where_time_goes(report, package, args.rounds)
        against_peers(report, package, args.peers, args.rounds)
        larger_frames(report, package, args.rounds)
        two_instances(report, package, args.rounds)
    results = args.out / "RESULTS.md"
    # What gpu.py measured stays.
    _, mark, other = results.read_text().partition(GPU) if results.exists() else ("", "", "")
    goals = f"## Goals\n\n{report.goals_table()}\n\n{REASONS}"
    head = ["# Measured speed", conditions(args.rounds, args.peers), "![milliseconds a frame](chart.svg)", goals]
    results.write_text("\n\n".join(part.strip() for part in [*head, *report.sections]) + "\n" + mark + other)
    title = f"Milliseconds a frame, {sized(*SIZES[0])}"
    chart(title, sorted(report.bars, key=lambda bar: bar[1]), args.out / "chart.svg")
    print(f"written to {results} in {(time.time() - began) / 60:.1f} minutes")
