"""Other people's upscalers: networks in ncnn's format, run by ncnn and by ONNX Runtime, and Lanczos."""

import re
import struct
import subprocess
import time

import numpy as np
import onnx
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
    data = path.with_suffix(".bin").read_bytes()
    position, nodes, tensors = 0, [], []

    def take(dtype, count):
        nonlocal position
        values = np.frombuffer(data, dtype, count, position).astype(np.float32)
        position += -(-count * np.dtype(dtype).itemsize // 4) * 4
        return values

    def constant(name, values):
        tensors.append(numpy_helper.from_array(values, name))
        return name

    for line in path.read_text().splitlines()[2:]:
        kind, name, inputs, outputs, *rest = line.split()
        blobs, settings = rest[: int(inputs) + int(outputs)], rest[int(inputs) + int(outputs) :]
        sources, targets = blobs[: int(inputs)], blobs[int(inputs) :]
        setting = {int(key): value for key, value in (s.split("=") for s in settings)}
        if kind == "Input":
            continue
        if kind == "Split":
            nodes += [helper.make_node("Identity", sources, [target]) for target in targets]
        elif kind == "Convolution" and setting.get(1) == "3" and setting.get(4) == setting.get(5) == "1":
            outs, size = int(setting[0]), int(setting[6])
            (flag,) = struct.unpack_from("<I", data, position)
            position += 4
            if flag not in (0, 0x01306B47):
                raise SystemExit(f"{name}: expected weights in single or half precision, got flag {flag:#x}")
            weight = take(np.float16 if flag else np.float32, size).reshape(outs, -1, 3, 3)
            names = constant(f"{name}_w", weight), constant(f"{name}_b", take(np.float32, outs))
            nodes.append(helper.make_node("Conv", [*sources, *names], targets, pads=[1] * 4))
        elif kind == "PReLU":
            slope = take(np.float32, int(setting[0])).reshape(-1, 1, 1)
            nodes.append(helper.make_node("PRelu", [*sources, constant(f"{name}_s", slope)], targets))
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
            raise SystemExit(f"{path}: expected the layers of SRVGGNetCompact, got `{line}`")
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
