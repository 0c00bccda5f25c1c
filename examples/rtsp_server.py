"""An RTSP server whose clients see a video upscaled: rtsp://HOST:8554/live.

    python3 examples/rtsp_server.py examples/demo/clip.mp4    # a file or a URI
    python3 examples/rtsp_server.py test                      # a moving test picture, live

    ffplay rtsp://127.0.0.1:8554/live

All clients share one pipeline, which runs while there is one. With `--metrics 9554` Prometheus finds its numbers at
http://127.0.0.1:9554/metrics. Needs Debian's python3-gi, gir1.2-gst-rtsp-server-1.0 and, for the numbers,
python3-prometheus-client.
"""

import argparse
from pathlib import Path

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

TEST = "videotestsrc is-live=true pattern=ball ! video/x-raw,width=160,height=90,framerate=15/1"

# window=1: the next frame is not waited for. A queue on both sides, so that decoding, upscaling and encoding go on at
# the same time; the first one lets frames go when the machine is too slow, so that the picture does not lag behind.
UPSCALE = (
    "videoconvert ! queue leaky=downstream max-size-buffers=2 ! fastvsr window=1 name=upscaler ! videoconvert "
    "! queue max-size-buffers=2 ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=30 "
    "! rtph264pay name=pay0 config-interval=-1"
)


def source(name):
    """The elements that give raw video from what the user named."""
    if name == "test":
        return TEST
    uri = name if Gst.uri_is_valid(name) else Path(name).resolve(strict=True).as_uri()
    return f'uridecodebin uri="{uri}"'


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("source", help="a URI, a file, or `test`")
parser.add_argument("--port", default="8554")
parser.add_argument("--metrics", type=int, metavar="PORT", help="serve numbers for Prometheus on this port")
args = parser.parse_args()
Gst.init(None)

factory = GstRtspServer.RTSPMediaFactory(launch=f"( {source(args.source)} ! {UPSCALE} )", shared=True)
if args.metrics:
    import metrics
    import prometheus_client

    running = {}
    factory.connect("media-configure", lambda _, media: running.update(bin=media.get_element()))
    factory.connect("media-constructed", lambda _, media: media.connect("unprepared", lambda _: running.clear()))
    registry = metrics.registry(lambda: running and running["bin"].get_by_name("upscaler"))
    prometheus_client.start_http_server(args.metrics, registry=registry)
server = GstRtspServer.RTSPServer(service=args.port)
server.get_mount_points().add_factory("/live", factory)
if not server.attach(None):
    parser.error(f"port {args.port} is taken")
print(f"rtsp://127.0.0.1:{args.port}/live", flush=True)
GLib.MainLoop().run()
