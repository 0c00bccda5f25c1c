"""A package in 8-bit integers, for CPUs that have no bfloat16.

python -m fastvsr_models.quantize --package models/compact-s --cache CACHE --out models/compact-s-int8

Weights per channel, activations per tensor, their ranges from clips of the training cache (static quantisation, QDQ form). The
encoder stays as it is: its little work is all at the edges. In and out the stages exchange what they did before.
"""

import argparse
import re
import shutil
import tempfile
import tomllib
from pathlib import Path

import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from .data import Clips
from .package import sha256
from .upscalers import Package

STAGES = ("unet", "decoder")
OPERATORS = ["Conv", "ConvTranspose", "Add", "Mul", "Relu", "Concat", "DepthToSpace"]


class Recorder:
    """A session that keeps what it is fed."""

    def __init__(self, session):
        self.session, self.feeds = session, []

    def run(self, outputs, feed):
        self.feeds.append(feed)
        return self.session.run(outputs, feed)

    def __getattr__(self, name):
        return getattr(self.session, name)


class Feeds(CalibrationDataReader):
    """What a stage was fed, once."""

    def __init__(self, feeds):
        self.feeds = iter(feeds)

    def get_next(self):
        return next(self.feeds, None)


def record(package, clips):
    """What every stage is fed when the package upscales `clips`, by the name of the stage."""
    upscaler = Package(package)
    upscaler.stages = [(Recorder(session), states) for session, states in upscaler.stages]
    for clip in clips:
        upscaler(clip)
    return dict(zip(upscaler.manifest["stages"], (stage.feeds for stage, _ in upscaler.stages), strict=True))


def fold(source, target):
    """The graph with all constants folded: weights, stored in half precision, as floats."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


def quantize(package, clips, out):
    """Write the package in 8 bits into the folder `out`; `clips`: uint8 [T, H, W, 3] each."""
    package, out = Path(package), Path(out)
    out.mkdir(parents=True, exist_ok=True)
    manifest = (package / "model.toml").read_text()
    feeds = record(package, clips)
    for name, stage in tomllib.loads(manifest)["stages"].items():
        source, target = package / stage["file"], out / stage["file"]
        if name not in STAGES:
            shutil.copyfile(source, target)
            continue
        with tempfile.TemporaryDirectory() as folder:
            folded = Path(folder, "folded.onnx")
            fold(source, folded)
            quantize_static(
                folded,
                target,
                Feeds(feeds[name]),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=OPERATORS,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        manifest = manifest.replace(stage["sha256"], sha256(target))
    manifest = re.sub(r'^name = ".*"', f'name = "{out.name}"', manifest, count=1, flags=re.MULTILINE)
    manifest = re.sub(r'^(description = ".*)"', r'\1, in 8-bit integers"', manifest, count=1, flags=re.MULTILINE)
    (out / "model.toml").write_text(manifest)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--package", required=True, help="folder of the package in floating point")
    parser.add_argument(
        "--cache", required=True, help="made by `python -m fastvsr_models.data --frames 0`; ranges come from its clips"
    )
    parser.add_argument("--out", required=True, help="folder of the package to write; its name is the package's")
    parser.add_argument("--clips", type=int, default=16, help="clips that ranges are taken from")
    args = parser.parse_args()
    quantize(args.package, Clips(args.cache, kinds={"bi": 0.5, "codec": 0.5}).batch(args.clips, 4, 64)[0].numpy(), args.out)
