"""How the benchmark runs pipelines: in gst-launch-1.0, which tells of every frame."""

import os
import re
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

PLUGIN = Path(os.environ.get("PREBUILT") or Path(__file__).resolve().parent.parent / "target/release")


def has_bf16():
    return "avx512_bf16" in Path("/proc/cpuinfo").read_text()


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
