"""Upscales one segment of a manifest: an ordinary pipeline with fastvsr, from its first warm-up frame to its end.

    python -m cluster.work job/manifest.json --index 3

May be run again and anywhere: a segment that is there is left alone; one that is not is written under a name of its own
and renamed when it is complete.
"""

import argparse
import json
import os
import socket
from pathlib import Path

from .media import DECODE, Gst, PipelineError, model_hash, on_frames, play


def segment_path(manifest, index):
    return Path(manifest).parent / "segments" / f"{index:06}.mkv"


def work(manifest, index, worker=None):
    """Upscales segment `index` of the manifest file `manifest`, unless that is done; gives its path."""
    target = segment_path(manifest, index)
    if target.exists():
        return target
    job = json.loads(Path(manifest).read_text())
    model, segments = job["model"], job["segments"]
    if (got := model_hash(model["name"])) != model["sha256"]:
        raise PipelineError(f"model {model['name']}: expected SHA-256 {model['sha256']} as planned, got {got} here")
    wanted = segments[index]["pts"]
    # None: to the end of the video.
    end = segments[index + 1]["pts"][0] if index + 1 < len(segments) else None

    target.parent.mkdir(exist_ok=True)
    unfinished = target.with_suffix(f".{worker or f'{socket.gethostname()}-{os.getpid()}'}.part")
    pipeline = Gst.parse_launch(
        f"{DECODE.format(Path(manifest).parent / job['source'])} ! queue ! "
        f'fastvsr name=vsr model="{model["name"]}" {job["properties"]} ! videoconvert ! queue ! {job["encoder"]} ! '
        f'matroskamux ! filesink location="{unfinished}"'
    )
    got = []

    def keep(time, _buffer):
        if time < wanted[0]:
            return False  # warm-up
        got.append(time)
        return True

    on_frames(pipeline.get_by_name("vsr").get_static_pad("src"), keep)
    play(pipeline, seek=(segments[index]["seek"], end))
    if got != wanted:
        raise PipelineError(
            f"segment {index}: expected {len(wanted)} frames from {wanted[0]} ns as planned, got {len(got)} from "
            f"{got[:1]}: has the source changed since?"
        )
    os.replace(unfinished, target)
    return target


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m cluster.work", description=__doc__.splitlines()[0])
    parser.add_argument("manifest")
    parser.add_argument("--index", type=int, required=True, help="number of the segment, from 0")
    args = parser.parse_args()
    print(work(args.manifest, args.index))
