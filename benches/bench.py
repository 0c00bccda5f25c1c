"""Measures the element against the bare graphs in ONNX Runtime, on this machine, in one run: `make bench`.

Both run the same package with the same library. The element runs in gst-launch-1.0 with a fakesink; start-up is told
apart from the steady state by runs of two lengths. The two are measured in turn, several times; the ratio that is
printed is the median of the ratios of neighbours, because machines are noisy.
"""

import argparse
import json
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

ROOT = Path(__file__).resolve().parent.parent
PLUGIN = ROOT / "target/release"
BF16 = json.dumps({"CPU": {"INFERENCE_PRECISION_HINT": "bf16"}})
F32 = json.dumps({"CPU": {"INFERENCE_PRECISION_HINT": "f32"}})


def providers(name):
    """What the element chooses for `name`: bf16 where the CPU has it."""
    if name == "cpu":
        return ["CPUExecutionProvider"]
    hint = BF16 if "avx512_bf16" in Path("/proc/cpuinfo").read_text() else F32
    return [("OpenVINOExecutionProvider", {"device_type": "CPU", "load_config": hint}), "CPUExecutionProvider"]


class Bare:
    """The three graphs, chained as the element chains them, frame by frame, with the element's session options."""

    def __init__(self, package, provider, width, height):
        manifest = tomllib.loads((package / "model.toml").read_text())
        multiple = manifest["geometry"]["multiple"]
        self.stages = []
        height, width = (-(-side // multiple) * multiple for side in (height, width))
        for name, stage in manifest["stages"].items():
            options = ort.SessionOptions()
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            session = ort.InferenceSession(package / stage["file"], options, providers=providers(provider))
            states = {
                s["input"]: np.zeros((1, s["channels"], height // s["stride"], width // s["stride"]), np.float32)
                for s in stage.get("state", [])
            }
            inputs = {i.name for i in session.get_inputs()}
            self.stages.append((name, session, states, stage.get("state", []), inputs))
        self.frame = np.full((1, height, width, 3), 90, np.uint8)

    def step(self):
        values = {"frames": self.frame}
        for _, session, states, names, inputs in self.stages:
            values.update(states)
            outputs = dict(
                zip(
                    [o.name for o in session.get_outputs()],
                    session.run(None, {k: v for k, v in values.items() if k in inputs}),
                    strict=True,
                )
            )
            for state in names:
                states[state["input"]] = outputs[state["output"]]
            values.update(outputs)

    def seconds_per_frame(self, frames):
        for _ in range(5):
            self.step()
        begin = time.perf_counter()
        for _ in range(frames):
            self.step()
        return (time.perf_counter() - begin) / frames


def launch(args, env):
    begin = time.perf_counter()
    subprocess.run(["gst-launch-1.0", "-q", *args.split()], check=True, env=env)
    return time.perf_counter() - begin


def element(package, provider, width, height, caps, frames, env):
    """(seconds until the first frame, seconds a frame after it)."""
    pipeline = (
        f"videotestsrc num-buffers={{}} pattern=black ! video/x-raw,format={caps},width={width},height={height} "
        f"! fastvsr model={package} execution-provider={provider} ! fakesink sync=false"
    )
    short = launch(pipeline.format(5), env)
    long = launch(pipeline.format(5 + frames), env)
    steady = (long - short) / frames
    return short - 5 * steady, steady


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--package", type=Path, default=ROOT / "models/compact-s")
    parser.add_argument("--size", default="320x180")
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "benches/RESULTS.md")
    args = parser.parse_args()
    width, height = (int(side) for side in args.size.split("x"))

    about = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next(line.split(":")[1].strip() for line in about if line.startswith("model name"))
    conditions = (
        f"`make bench` on {time.strftime('%Y-%m-%d')}: {os.cpu_count()} cores of {cpu}, {platform.machine()}; "
        f"ONNX Runtime {ort.__version__}; `{args.package.name}`, {width}x{height} -> {4 * width}x{4 * height}, "
        f"{args.frames} frames, median of {args.rounds} rounds. Bare / element: 1 is as fast as the graphs alone.\n"
    )
    lines = [
        "# Measured speed\n",
        conditions,
        "| provider | format | first frame s | element ms | element fps | bare graphs ms | bare / element |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as registry:
        env = {**os.environ, "GST_PLUGIN_PATH": str(PLUGIN), "GST_REGISTRY": f"{registry}/registry"}
        subprocess.run(["gst-inspect-1.0", "fastvsr"], check=True, env=env, stdout=subprocess.DEVNULL)
        for provider in ("openvino", "cpu"):
            if provider == "openvino" and "OpenVINOExecutionProvider" not in ort.get_available_providers():
                continue
            bare = Bare(args.package, provider, width, height)
            for caps in ("RGB", "I420"):
                rounds = []
                for _ in range(args.rounds):
                    first, steady = element(args.package, provider, width, height, caps, args.frames, env)
                    rounds.append((first, steady, bare.seconds_per_frame(args.frames)))
                first, steady, alone = (statistics.median(column) for column in zip(*rounds, strict=True))
                ratio = statistics.median(b / s for _, s, b in rounds)
                lines.append(
                    f"| {provider} | {caps} | {first:.2f} | {steady * 1e3:.1f} | {1 / steady:.1f} | {alone * 1e3:.1f} "
                    f"| {ratio:.3f} |"
                )
                print(lines[-1], flush=True)
    args.out.write_text("\n".join(lines) + "\n")
    print(f"written to {args.out}")
