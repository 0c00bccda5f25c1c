"""A stage in 8-bit integers, for CPUs on which that is faster than floating point: `export --int8` adds it to a package.

What convolutions take is quantised (static, QDQ form): weights per channel, activations per tensor, their ranges from clips of
the training cache. What they give is a float, so that the picture is not rounded to 256 steps of the largest correction. Weights
have 7 bits, since CPUs without integer dot products (VNNI) add two products in 16 bits: weights of 8 cost 0.6 dB there. In and
out the stage exchanges what it did before.
"""

import tempfile
from pathlib import Path

import onnx
import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from .upscalers import Package


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
    """What every stage is fed when the package upscales `clips`, uint8 [T, H, W, 3] each, by the name of the stage."""
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


def is_skip(node):
    """Whether a convolution is of groups: the bicubic skip, whose weights are exact as they are."""
    return any(attribute.name == "group" and attribute.i > 1 for attribute in node.attribute)


def quantize(source, feeds, target):
    """Write the graph `source` in 8 bits; `feeds` are what it is run on for the ranges."""
    with tempfile.TemporaryDirectory() as folder:
        folded = Path(folder, "folded.onnx")
        fold(source, folded)
        quantize_static(
            folded,
            target,
            Feeds(feeds),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=[node.name for node in onnx.load(folded).graph.node if is_skip(node)],
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"OpTypesToExcludeOutputQuantization": ["Conv"]},
        )
