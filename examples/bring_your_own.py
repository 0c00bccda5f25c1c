"""Makes a model package: bilinear upscaling by four as an ONNX graph, and its model.toml. Needs onnx.

    python examples/bring_your_own.py bilinear
    gst-launch-1.0 videotestsrc num-buffers=10 ! fastvsr model=./bilinear ! fakesink

docs/models.md explains it line by line. A network of yours goes between the two casts.
"""

import hashlib
import sys
from pathlib import Path

import onnx
from onnx import parser

GRAPH = """
<ir_version: 8, opset_import: ["": 17]>
bilinear (uint8[T, H, W, 3] frames) => (uint8[T, Hs, Ws, 3] frames_hr)
<float[4] scales = {1.0, 1.0, 4.0, 4.0}, float low = {0.0}, float high = {255.0}>
{
    pixels = Cast<to = 1>(frames)
    planes = Transpose<perm = [0, 3, 1, 2]>(pixels)
    large = Resize<mode = "linear", coordinate_transformation_mode = "half_pixel">(planes, , scales)
    back = Transpose<perm = [0, 2, 3, 1]>(large)
    clipped = Clip(back, low, high)
    rounded = Round(clipped)
    frames_hr = Cast<to = 2>(rounded)
}
"""

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "bilinear")
folder.mkdir(exist_ok=True)
data = parser.parse_model(GRAPH).SerializeToString()
onnx.checker.check_model(data)
(folder / "decoder.onnx").write_bytes(data)
(folder / "model.toml").write_text(
    f"""format = 1
name = "{folder.name}"
version = "1.0.0"
license = "CC0-1.0"
description = "bilinear interpolation by four"
[geometry]
scale = 4
[time]
[stages.decoder]
file = "decoder.onnx"
sha256 = "{hashlib.sha256(data).hexdigest()}"
"""
)
