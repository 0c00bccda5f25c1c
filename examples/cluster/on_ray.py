"""Runs all segments of a manifest on a Ray cluster whose machines see the manifest's folder, then joins them.

    python -m cluster.on_ray job/manifest.json film-4x.mp4 --address auto --cpus 2

A segment whose machine dies or whose pipeline fails is run again, elsewhere if need be. After a kill, the same command
goes on where it was.
"""

import argparse
import json
from pathlib import Path

import ray

from .join import join
from .work import work


@ray.remote
def segment(manifest, index):
    return str(work(manifest, index, worker=ray.get_runtime_context().get_node_id()))


def run(manifest, retries=3, **resources):
    """Runs what is left of a job; `resources` is what Ray reserves for a segment: num_cpus, num_gpus."""
    count = len(json.loads(Path(manifest).read_text())["segments"])
    task = segment.options(max_retries=retries, retry_exceptions=True, **resources)
    waiting = [task.remote(str(Path(manifest).resolve()), index) for index in range(count)]
    while waiting:
        done, waiting = ray.wait(waiting)
        print(f"{count - len(waiting)}/{count} {ray.get(done[0])}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m cluster.on_ray", description=__doc__.splitlines()[0])
    parser.add_argument("manifest")
    parser.add_argument("out")
    parser.add_argument("--address", help="of the cluster, or `auto`; without it Ray starts one on this machine")
    parser.add_argument("--cpus", type=int, default=2, help="cores for a segment")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs for a segment")
    args = parser.parse_args()
    # The other machines are sent this package; the plugin must be installed there.
    ray.init(address=args.address, runtime_env={"py_modules": [str(Path(__file__).parent)]})
    run(args.manifest, num_cpus=args.cpus, num_gpus=args.gpus)
    join(args.manifest, args.out)
