"""The planner's choices, and whole jobs against one machine's film: one by one, and on a cluster that loses one."""

import json
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from . import on_ray
from .join import join
from .media import Gst, PipelineError, play
from .plan import plan, split, survey
from .work import segment_path, work

LOSSLESS = "x264enc pass=quant quantizer=0 speed-preset=veryfast ! video/x-h264,profile=high-4:4:4"
# Slow enough to be killed in the middle: a fifth of a second for a frame.
SLOW = f"identity sleep-time=200000 ! {LOSSLESS}"
# One arithmetic on all machines: what differs then is the cutting alone.
CPU = "execution-provider=cpu"


@pytest.fixture(scope="session")
def film(tmp_path_factory):
    """Two scenes of 64x48 that move, 80 frames of 29.97 a second, keyframes every 20, with sound."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    rng, (y, x) = np.random.default_rng(1), np.mgrid[:48, :64]
    bricks = np.kron(rng.integers(0, 256, (4, 12, 3)), np.ones((12, 12, 1)))
    waves = 128 + 80 * np.sin(x / 9 + y / 5)[..., None]
    with av.open(path, "w") as file:
        video = file.add_stream("libx264", rate=Fraction(30000, 1001), options={"g": "20", "sc_threshold": "0"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = file.add_stream("aac", rate=44100, layout="mono")
        for n in range(80):
            scene = bricks[:, n : n + 64] if n < 40 else waves + rng.integers(0, 30, (48, 64, 3))
            picture = av.VideoFrame.from_ndarray(scene.astype(np.uint8), format="rgb24")
            file.mux(video.encode(picture))
        for n in range(115):
            tone = np.sin(np.arange(1024)[None] * 0.06).astype(np.float32)
            samples = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            samples.rate, samples.pts = 44100, 1024 * n
            file.mux(audio.encode(samples))
        file.mux(video.encode())
        file.mux(audio.encode())
    return path


@pytest.fixture(scope="session")
def alone(film, tmp_path_factory):
    """The film upscaled by one machine in one go."""
    return in_one_go(film, tmp_path_factory.mktemp("alone") / "alone.mkv", CPU)


def in_one_go(film, path, properties):
    pipeline = f"filesrc location={film} ! decodebin ! videoconvert ! fastvsr {properties} ! videoconvert"
    play(Gst.parse_launch(f"{pipeline} ! {LOSSLESS} ! matroskamux ! filesink location={path}"))
    return path


def video(path):
    """Times in seconds and grey pictures of a film."""
    with av.open(path) as file:
        frames = [(float(f.pts * f.time_base), f.to_ndarray(format="gray").astype(float)) for f in file.decode(video=0)]
    return [time for time, _ in frames], [picture for _, picture in frames]


def sound(path):
    with av.open(path) as file:
        return [bytes(packet) for packet in file.demux(audio=0) if packet.size]


def wait_for(what, seconds=120):
    deadline = time.monotonic() + seconds
    while not (result := what()):
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.01)
    return result


def worst_psnr(a, b):
    return min(10 * np.log10(255**2 / max(np.square(x - y).mean(), 1e-9)) for x, y in zip(a, b, strict=True))


def equals(result, film, alone):
    """Frame count and times of the source, sound of the source, pictures of the one machine."""
    times, pictures = video(result)
    assert times == pytest.approx(video(film)[0], abs=1e-6)
    assert sound(result) == sound(film)
    worst = worst_psnr(pictures, video(alone)[1])
    print(f"worst frame: {worst:.1f} dB")
    assert worst >= 50


def test_the_survey_finds_frames_keyframes_and_scene_cuts(film):
    times, keys, cuts = survey(film)
    assert len(times) == 80
    assert times[3] == pytest.approx(3 * 1001 / 30000 * 1e9, abs=1e6)
    assert keys == {0, 20, 40, 60}
    assert cuts == {40}


def test_segments_begin_at_scene_cuts_then_keyframes_then_anywhere():
    assert list(split(100, {0, 50}, {60}, 50, 8)) == [(0, 60, 0), (60, 40, 0)]
    assert list(split(100, {0, 45, 60}, set(), 50, 8)) == [(0, 45, 0), (45, 55, 8)]
    assert list(split(100, {0}, set(), 40, 8)) == [(0, 40, 0), (40, 60, 8)]


def test_the_warm_up_does_not_reach_beyond_a_scene_cut():
    # The cut at 19 is too near to the beginning to begin a segment, and the keyframe at 24 comes soon after it.
    assert list(split(80, {0, 24}, {19}, 40, 8)) == [(0, 24, 0), (24, 56, 5)]


def test_every_frame_is_in_one_segment():
    rng = np.random.default_rng(0)
    for _ in range(200):
        frames, length = int(rng.integers(1, 500)), int(rng.integers(1, 90))
        keys, cuts = (set(rng.integers(0, frames, 9).tolist()) for _ in range(2))
        segments = list(split(frames, keys, cuts, length, 8))
        assert [first for first, _, _ in segments] == [0, *np.cumsum([count for _, count, _ in segments])][:-1]
        assert sum(count for _, count, _ in segments) == frames
        assert all(
            0 < count <= max(1.5 * length, 1) + 1 and 0 <= warm <= min(8, first) for first, count, warm in segments
        )


def test_segments_joined_equal_one_machine(film, alone, tmp_path):
    manifest = tmp_path / "manifest.json"
    job = plan(film, manifest, length=25, properties=CPU, encoder=LOSSLESS)
    assert [segment["warm_up"] for segment in job["segments"]] == [0, 16, 0, 16]
    for index in range(4):
        # As a Kubernetes Indexed Job does it.
        command = [sys.executable, "-m", "cluster.work", manifest, "--index", str(index)]
        subprocess.run(command, check=True, cwd=Path(__file__).parent.parent)
    join(manifest, tmp_path / "out.mp4")
    equals(tmp_path / "out.mp4", film, alone)


def test_without_warm_up_the_seam_shows(film, tmp_path):
    """What the warm-up is for; if this fails the threshold of the other tests says nothing. The model counts frames."""
    model = str(Path(__file__).resolve().parents[2] / "tests/data/counter")
    alone = in_one_go(film, tmp_path / "alone.mkv", f"{CPU} model={model}")
    manifest = tmp_path / "manifest.json"
    plan(film, manifest, length=25, warm_up=0, model=model, properties=CPU, encoder=LOSSLESS)
    work(manifest, 1)
    _, pictures = video(segment_path(manifest, 1))
    assert worst_psnr(pictures, video(alone)[1][20 : 20 + len(pictures)]) < 50


def test_h264_with_b_frames_keeps_the_times(film, tmp_path):
    manifest = tmp_path / "manifest.json"
    plan(film, manifest, length=25, properties=CPU)
    for index in range(4):
        work(manifest, index)
    join(manifest, tmp_path / "out.mp4")
    assert video(tmp_path / "out.mp4")[0] == pytest.approx(video(film)[0], abs=1e-6)


def test_a_killed_worker_leaves_no_segment_and_another_makes_it(film, tmp_path):
    manifest = tmp_path / "manifest.json"
    plan(film, manifest, length=100, properties=CPU, encoder=SLOW)
    target = segment_path(manifest, 0)
    command = [sys.executable, "-m", "cluster.work", manifest, "--index", "0"]
    worker = subprocess.Popen(command, cwd=Path(__file__).parent.parent)
    wait_for(lambda: list(target.parent.glob("*.part")))
    worker.kill()
    worker.wait()
    with pytest.raises(SystemExit, match="1 of 1 segments are missing"):
        join(manifest, tmp_path / "out.mp4")
    work(manifest, 0)
    assert len(video(target)[0]) == 80


def test_a_finished_segment_is_left_alone(film, tmp_path):
    manifest = tmp_path / "manifest.json"
    plan(film, manifest, length=100, properties=CPU, encoder=LOSSLESS)
    written = work(manifest, 0).stat().st_mtime_ns
    assert work(manifest, 0).stat().st_mtime_ns == written


def test_another_model_is_refused(film, tmp_path):
    manifest = tmp_path / "manifest.json"
    job = plan(film, manifest, length=100)
    job["model"]["sha256"] = "0" * 64
    manifest.write_text(json.dumps(job))
    with pytest.raises(PipelineError, match="expected SHA-256 0000"):
        work(manifest, 0)


def test_another_source_is_refused(film, tmp_path):
    manifest = tmp_path / "manifest.json"
    job = plan(film, manifest, length=100, properties=CPU, encoder=LOSSLESS)
    job["segments"][0]["pts"][7] += 1
    manifest.write_text(json.dumps(job))
    with pytest.raises(PipelineError, match="has the source changed"):
        work(manifest, 0)


def test_a_ray_cluster_that_loses_a_machine(film, alone, tmp_path):
    import ray
    from ray.cluster_utils import Cluster

    manifest = tmp_path / "manifest.json"
    plan(film, manifest, length=10, properties=CPU, encoder=SLOW)
    segments = segment_path(manifest, 0).parent
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        machines = [cluster.add_node(num_cpus=1) for _ in range(2)]
        ray.init(address=cluster.address, runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parent.parent)}})
        job = threading.Thread(target=on_ray.run, args=(manifest,), kwargs={"num_cpus": 1})
        job.start()
        lost = wait_for(lambda: list(segments.glob(f"*.{machines[0].node_id}.part")))
        cluster.remove_node(machines[0], allow_graceful=False)
        job.join(timeout=180)
        assert not job.is_alive(), "the job does not end"
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert lost[0].exists(), "the machine was not lost in the middle of a segment"
    join(manifest, tmp_path / "out.mp4")
    equals(tmp_path / "out.mp4", film, alone)
