"""Makes an ONNX file that sees three frames and gives the middle one, twice as large, without its noise: the mean of
the three, as networks for film grain begin. Needs onnx.

    python examples/window_of_frames.py denoise.onnx
    fastvsr models add denoise.onnx --look-back 1 --look-ahead 1
    gst-launch-1.0 videotestsrc num-buffers=10 ! fastvsr model=denoise ! fakesink

docs/models.md explains it. A network of yours takes the place of the mean.
"""

import sys

import onnx
from onnx import parser

GRAPH = """
<ir_version: 8, opset_import: ["": 17]>
denoise (float[1, 3, 3, H, W] frames) => (float[1, 3, Hs, Ws] frame)
<float[4] scales = {1.0, 1.0, 2.0, 2.0}>
{
    mean = ReduceMean<axes = [1], keepdims = 0>(frames)
    frame = Resize<mode = "linear", coordinate_transformation_mode = "half_pixel">(mean, , scales)
}
"""

model = parser.parse_model(GRAPH)
onnx.checker.check_model(model)
onnx.save(model, sys.argv[1] if len(sys.argv) > 1 else "denoise.onnx")
