"""Joins the segments of a manifest: no frame is encoded again, times are the source's, sound and subtitles are copied.

python -m cluster.join job/manifest.json film-4x.mp4
"""

import argparse
import heapq
import json
import os
from fractions import Fraction
from pathlib import Path

import av

from .work import segment_path

NS = Fraction(1, 10**9)


def packets(path):
    """The coded frames of a segment in decoding order, each with its place in the order of display."""
    with av.open(path) as segment:
        coded = [packet for packet in segment.demux(video=0) if packet.size]
    places = {pts: place for place, pts in enumerate(sorted(packet.pts for packet in coded))}
    return [(packet, places[packet.pts]) for packet in coded]


def video(job, paths, stream):
    """All coded frames with the times of the source."""
    ticks = [round(ns * NS / stream.time_base) for segment in job["segments"] for ns in segment["pts"]]
    # A frame is decoded as many frames earlier as the encoder moves one forward.
    delay = max(n - place for path in paths for n, (_, place) in enumerate(packets(path)))
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1
    decoding = [ticks[0] - step * n for n in range(delay, 0, -1)] + ticks
    for segment, path in zip(job["segments"], paths, strict=True):
        coded = packets(path)
        if len(coded) != segment["frames"]:
            raise SystemExit(f"{path}: expected {segment['frames']} frames, got {len(coded)}: delete it, run it again")
        for n, (packet, place) in enumerate(coded):
            number = segment["first"] + place
            packet.time_base, packet.pts, packet.dts = stream.time_base, ticks[number], decoding[segment["first"] + n]
            packet.duration = ticks[number + 1] - ticks[number] if number + 1 < len(ticks) else step
            packet.stream = stream
            yield packet


def others(source, streams, start):
    """The source's packets of other streams, `start` seconds earlier."""
    for packet in source.demux(list(streams)) if streams else ():
        if packet.size and packet.dts is not None:
            shift = round(start / packet.time_base)
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            packet.stream = streams[packet.stream]
            yield packet


def join(manifest, out):
    """Writes `out`, whose ending says in which container, from the finished segments."""
    job = json.loads(Path(manifest).read_text())
    paths = [segment_path(manifest, index) for index in range(len(job["segments"]))]
    if missing := [index for index, path in enumerate(paths) if not path.exists()]:
        raise SystemExit(f"{len(missing)} of {len(paths)} segments are missing, the first is {missing[0]}: run them")
    unfinished = Path(out).with_name(f"{Path(out).stem}.part{Path(out).suffix}")
    with (
        av.open(Path(manifest).parent / job["source"]) as source,
        av.open(paths[0]) as first,
        av.open(unfinished, "w") as target,
    ):
        original = source.streams.video[0]
        stream = target.add_stream_from_template(first.streams.video[0])
        stream.time_base = original.time_base
        streams = {s: target.add_stream_from_template(s) for s in [*source.streams.audio, *source.streams.subtitles]}
        target.metadata.update(source.metadata)
        target.start_encoding()
        # Where the two libraries count from may differ: by the first frame both can be compared.
        start = (original.start_time or 0) * original.time_base - job["segments"][0]["pts"][0] * NS
        sources = video(job, paths, stream), others(source, streams, start)
        for packet in heapq.merge(*sources, key=lambda packet: packet.dts * packet.time_base):
            target.mux(packet)
    os.replace(unfinished, out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m cluster.join", description=__doc__.splitlines()[0])
    parser.add_argument("manifest")
    parser.add_argument("out")
    join(**vars(parser.parse_args()))
