"""Other people's upscalers: networks in ncnn's format, run by ncnn and by ONNX Runtime, and Lanczos."""

import re
import subprocess
import time

import numpy as np
import onnx
from fastvsr_models.ncnn_weights import layers
from imageio_ffmpeg import get_ffmpeg_exe
from onnx import TensorProto, helper, numpy_helper


class Ncnn:
    """A network from FILE.param and FILE.bin beside it: blob `data`, RGB [3, H, W] in 0..1, to blob `output`."""

    def __init__(self, path, threads):
        import ncnn

        self.ncnn, self.net = ncnn, ncnn.Net()
        self.net.opt.num_threads = threads
        self.net.load_param(str(path))
        self.net.load_model(str(path.with_suffix(".bin")))

    def __call__(self, planes):
        matrix = self.ncnn.Mat(planes)  # borrows the array
        extractor = self.net.create_extractor()
        extractor.input("data", matrix)
        return np.array(extractor.extract("output")[1])


def to_onnx(path):
    """The same network as an ONNX model, [1, 3, H, W] to [1, 3, 4H, 4W]; of ncnn's layers, those of SRVGGNetCompact."""
    nodes, tensors = [], []

    def constant(name, values):
        tensors.append(numpy_helper.from_array(values, name))
        return name

    for kind, name, sources, targets, setting, weights in layers(path):
        if kind == "Input":
            continue
        if kind == "Split":
            nodes += [helper.make_node("Identity", sources, [target]) for target in targets]
        elif kind == "Convolution" and setting.get(1) == "3" and setting.get(4) == setting.get(5) == "1":
            names = constant(f"{name}_w", weights[0]), constant(f"{name}_b", weights[1])
            nodes.append(helper.make_node("Conv", [*sources, *names], targets, pads=[1] * 4))
        elif kind == "PReLU":
            slope = constant(f"{name}_s", weights[0].reshape(-1, 1, 1))
            nodes.append(helper.make_node("PRelu", [*sources, slope], targets))
        elif kind == "PixelShuffle":
            scale = int(setting[0])
            nodes.append(helper.make_node("DepthToSpace", sources, targets, blocksize=scale, mode="CRD"))
        elif kind == "Interp" and setting[0] == "1":
            scales = constant(f"{name}_scales", np.array([1, 1, float(setting[2]), float(setting[1])], np.float32))
            mode = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            nodes.append(helper.make_node("Resize", [*sources, "", scales], targets, **mode))
        elif kind == "BinaryOp" and not setting:
            nodes.append(helper.make_node("Add", sources, targets))
        else:
            raise SystemExit(
                f"{path}: expected the layers of SRVGGNetCompact, got {kind} `{name}` with settings {setting}"
            )
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, [1, 3, "H", "W"])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 3, "sH", "sW"])],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def ffmpeg_lanczos(width, height, frames=400):
    """Seconds a frame of ffmpeg's Lanczos resize, x4, without what making the frames takes."""

    def run(scale):
        source = f"color=size={width}x{height}:rate=25,format=rgb24"
        command = [get_ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i", source, "-frames:v", str(frames)]
        begin = time.perf_counter()
        subprocess.run([*command, *scale, "-f", "null", "-"], check=True)
        return time.perf_counter() - begin

    return (run(["-vf", f"scale={4 * width}:{4 * height}:flags=lanczos"]) - run([])) / frames


def ffmpeg_version():
    text = subprocess.run([get_ffmpeg_exe(), "-version"], check=True, capture_output=True, text=True).stdout
    return re.search(r"version (\S+)", text)[1]
