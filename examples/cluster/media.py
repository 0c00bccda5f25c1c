"""What planner and workers share: pipelines written as for gst-launch-1.0, played to their end; the model's hash."""

import hashlib
from pathlib import Path

import gi

gi.require_version("Gst", "1.0")
from gi.repository import Gst  # noqa: E402

Gst.init(None)

# The first video stream of a file, decoded.
DECODE = 'filesrc location="{}" ! decodebin ! videoconvert name=decoded'

TYPES = Gst.MessageType.EOS | Gst.MessageType.ERROR


class PipelineError(RuntimeError):
    """What a pipeline posted on its bus."""


def play(pipeline, seek=None):
    """Plays a pipeline to its end; of the source only `seek`, a pair of stream times in ns, the second may be None.

    The seek is made before the first frame leaves `decoded`, so what follows never sees another one: encoders and
    muxers do not seek.
    """
    try:
        if seek:
            pad = pipeline.get_by_name("decoded").get_static_pad("src")
            block = pad.add_probe(Gst.PadProbeType.BLOCK | Gst.PadProbeType.BUFFER, lambda *_: Gst.PadProbeReturn.OK)
            pipeline.set_state(Gst.State.PAUSED)
            while not pad.is_blocking():
                _check(pipeline.get_bus().timed_pop_filtered(10 * Gst.MSECOND, TYPES))
            start, stop = seek
            flags = Gst.SeekFlags.FLUSH | Gst.SeekFlags.ACCURATE
            last = (Gst.SeekType.NONE, 0) if stop is None else (Gst.SeekType.SET, stop)
            event = Gst.Event.new_seek(1.0, Gst.Format.TIME, flags, Gst.SeekType.SET, start, *last)
            if not pad.send_event(event):
                raise PipelineError(f"the source cannot seek to {start} ns: expected a file with an index")
            pad.remove_probe(block)
        pipeline.set_state(Gst.State.PLAYING)
        _check(pipeline.get_bus().timed_pop_filtered(Gst.CLOCK_TIME_NONE, TYPES))
    finally:
        pipeline.set_state(Gst.State.NULL)


def _check(message):
    if message and message.type == Gst.MessageType.ERROR:
        error, debug = message.parse_error()
        raise PipelineError(f"{error.message} ({debug})")


def on_frames(pad, use):
    """Calls `use(stream time in ns, buffer)` for every buffer on `pad`; what it answers False to is dropped."""

    def probe(pad, info):
        segment = pad.get_sticky_event(Gst.EventType.SEGMENT, 0).parse_segment()
        buffer = info.get_buffer()
        time = segment.to_stream_time(Gst.Format.TIME, buffer.pts)
        return Gst.PadProbeReturn.DROP if use(time, buffer) is False else Gst.PadProbeReturn.OK

    pad.add_probe(Gst.PadProbeType.BUFFER, probe)


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def model_hash(model):
    """SHA-256 of the file that determines the pixels: a package's manifest, which has the hashes of its graphs, or for
    the embedded model the plugin."""
    if Path(model).is_dir():
        return sha256(Path(model, "model.toml"))
    factory = Gst.ElementFactory.find("fastvsr")
    if factory is None:
        raise SystemExit("no element fastvsr: install the plugin, or set GST_PLUGIN_PATH to its folder")
    if model != factory.create().get_property("model"):
        raise SystemExit(f"model `{model}`: expected the embedded model's name, or the folder of a package")
    return sha256(factory.get_plugin().get_filename())
