"""How the benchmark runs things: pipelines in gst-launch-1.0, and bare graphs with the element's session options."""

import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
import tomllib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

PLUGIN = Path(__file__).resolve().parent.parent / "target/release"
WARM_UP = 2  # calls that do not count


def has_openvino():
    return "OpenVINOExecutionProvider" in ort.get_available_providers()


def has_bf16():
    return "avx512_bf16" in Path("/proc/cpuinfo").read_text()


def session(graph, provider, precision=None, axes=None):
    """A session as the element makes it, OpenVINO in bf16 where the CPU has it. `axes`: lengths of free ones."""
    options = ort.SessionOptions()
    for name, length in (axes or {}).items():
        options.add_free_dimension_override_by_name(name, length)
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = ["CPUExecutionProvider"]
    if provider == "openvino":
        hint = precision or ("bf16" if has_bf16() else "f32")
        config = json.dumps({"CPU": {"INFERENCE_PRECISION_HINT": hint}})
        providers.insert(0, ("OpenVINOExecutionProvider", {"device_type": "CPU", "load_config": config}))
    return ort.InferenceSession(graph, options, providers=providers)


def seconds(step, count):
    """Median time of a call."""
    times = []
    for _ in range(WARM_UP + count):
        begin = time.perf_counter()
        step()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[WARM_UP:])


class Bare:
    """A package's graphs, chained as the element chains them, frame by frame; for one size where that is faster."""

    def __init__(self, package, provider, width, height):
        manifest = tomllib.loads((package / "model.toml").read_text())
        height, width = (padded(side, manifest) for side in (height, width))
        self.stages, self.frame = [], np.full((1, height, width, 3), 90, np.uint8)
        self.values = {"frames": self.frame}
        for stage in manifest["stages"].values():
            states = stage.get("state", [])
            carried = {
                s["input"]: np.zeros((1, height // s["stride"], width // s["stride"], s["channels"]), np.float32)
                for s in states
            }
            path = package / stage["file"]
            run = session(path, provider, axes=lengths(path, self.values | carried) if provider == "openvino" else None)
            self.stages.append((run, [i.name for i in run.get_inputs()], states, carried))
            self.advance(self.stages[-1])

    def step(self):
        """All stages on one frame."""
        self.values = {"frames": self.frame}
        for stage in self.stages:
            self.advance(stage)

    def decode(self):
        """The last stage again, on what the others made before."""
        self.advance(self.stages[-1])

    def advance(self, stage):
        run, inputs, states, carried = stage
        self.values |= carried
        outputs = run.run(None, {name: self.values[name] for name in inputs})
        self.values |= dict(zip([o.name for o in run.get_outputs()], outputs, strict=True))
        carried |= {s["input"]: self.values[s["output"]] for s in states}


def lengths(graph, values):
    """The free axes of a graph's inputs, and how long they are in `values`."""
    inputs = onnx.load(graph, load_external_data=False).graph.input
    named = (
        (dim.dim_param, length) for i in inputs for dim, length in zip(axes_of(i), values[i.name].shape, strict=True)
    )
    return {name: length for name, length in named if name}


def axes_of(value):
    return value.type.tensor_type.shape.dim


def padded(side, manifest):
    multiple = manifest["geometry"]["multiple"]
    return -(-side // multiple) * multiple


@dataclass
class Played:
    """What a gst-launch process did: when each sink got its frames, in seconds from the start, and its peak memory."""

    sinks: list[list[float]]
    peak: int
    stats: dict[str, float]

    @property
    def first(self):
        return self.sinks[0][0]

    @property
    def steady(self):
        """Seconds a frame, in the second half: by then the sessions for the frame size serve."""
        times = self.sinks[0][len(self.sinks[0]) // 2 :]
        return statistics.median(b - a for a, b in pairwise(times))


ARRIVAL = re.compile(r"GstFakeSink:(\w+): last-message = chain")
PEAK = re.compile(r"VmHWM:\s+(\d+) kB")
STATS = re.compile(r"(\w+)-ms=\(double\)([\d.]+)")


def environment():
    """For processes with the plugin, which then looks for ONNX Runtime where this interpreter lives."""
    return {**os.environ, "VIRTUAL_ENV": sys.prefix, "GST_PLUGIN_PATH": str(PLUGIN)}


def play(*pipelines):
    """Run pipelines at the same time, each in a process of its own; every one must end in fakesinks made by `sink`."""
    env = environment() | {"GST_DEBUG": "fastvsr:4", "GST_DEBUG_NO_COLOR": "1", "GST_DEBUG_FILE": "-"}
    begin = time.perf_counter()
    running = [
        subprocess.Popen(["gst-launch-1.0", "-v", *p.split()], stdout=subprocess.PIPE, text=True, env=env)
        for p in pipelines
    ]
    results = [Played([], 0, {}) for _ in running]

    def follow(process, played):
        sinks = {}
        for line in process.stdout:
            played.stats |= {name: float(ms) for name, ms in STATS.findall(line)}
            if match := ARRIVAL.search(line):
                sinks.setdefault(match[1], []).append(time.perf_counter() - begin)
                # Not what wait4 tells of: to that, the memory of this process belongs as well.
                if peak := PEAK.search(Path(f"/proc/{process.pid}/status").read_text()):
                    played.peak = int(peak[1]) * 1024
        played.sinks = list(sinks.values())

    readers = [threading.Thread(target=follow, args=pair) for pair in zip(running, results, strict=True)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    for process, played, pipeline in zip(running, results, pipelines, strict=True):
        if process.wait() or not played.sinks:
            raise SystemExit(f"failed: gst-launch-1.0 {pipeline}")
    return results


def branch(width, height, frames, upscaler, caps="RGB"):
    """A pipeline from a test picture to a sink that tells of every frame."""
    return (
        f"videotestsrc num-buffers={frames} pattern=smpte ! video/x-raw,format={caps},width={width},height={height} "
        f"! {upscaler} ! fakesink sync=false silent=false"
    )


def element(package, provider="auto"):
    """The element in the arithmetic of bare graphs and baselines, which have no integers."""
    on_cpu = {"cpu": "fp32"} | dict.fromkeys(("auto", "openvino"), "bf16" if has_bf16() else "fp32")
    return f"fastvsr model={package} execution-provider={provider} precision={on_cpu.get(provider, 'auto')}"
