"""fastvsr inside an application in Python: every upscaled frame of a video, in memory. As embed.rs and embed.c.

    python3 examples/embed.py examples/demo/clip.mp4

Prints time, size and mean brightness of every frame. Needs Debian's python3-gi and gir1.2-gst-plugins-base-1.0.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
from gi.repository import Gst  # noqa: E402

Gst.init(None)
if len(sys.argv) < 2:
    sys.exit("expected a video file")
pipeline = Gst.parse_launch(
    "filesrc name=file ! decodebin ! videoconvert ! fastvsr ! video/x-raw,format=RGB ! appsink name=frames sync=false"
)
pipeline.get_by_name("file").set_property("location", sys.argv[1])
frames = pipeline.get_by_name("frames")

pipeline.set_state(Gst.State.PLAYING)
error = None
while not error:
    sample = frames.emit("try-pull-sample", Gst.SECOND // 10)
    if not sample:
        error = pipeline.get_bus().pop_filtered(Gst.MessageType.ERROR)
        if frames.get_property("eos"):
            break
        continue
    caps, buffer = sample.get_caps().get_structure(0), sample.get_buffer()
    pixels = buffer.extract_dup(0, buffer.get_size())
    size = f"{caps.get_value('width')}x{caps.get_value('height')}"
    print(f"{buffer.pts // Gst.MSECOND} ms: {size}, brightness {sum(pixels) / len(pixels):.2f}")
pipeline.set_state(Gst.State.NULL)
if error:
    sys.exit(f"Error: {error.parse_error()[0].message}")
