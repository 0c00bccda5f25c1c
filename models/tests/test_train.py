"""Training runs, hands over, resumes, and says what is wrong without spoiling what is there."""

import csv
import resource
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_clip

from fastvsr_models.data import build_cache
from fastvsr_models.metrics import write_y4m
from fastvsr_models.networks import SIZES

CONFIGS = Path(__file__).parents[1] / "configs"

CONFIG = """
network = "{network}"
[loss]
code = 0.1
[data]
crop = {crop}
batch = 2
kinds = {{ bi = 0.5, codec = 0.5 }}
taught = 1
[optim]
rate = {rate}
warmup = 1
decay = 0.5
ema = 0.9
"""


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    write_y4m(make_clip(4, 96, 96), folder / "clip.y4m")
    build_cache(folder, folder / "cache", kinds=("bi", "codec"))

    def start(name, *options, network="compact-xs", rate=1e-3, crop=16, cache=folder / "cache", val=False, **keywords):
        config = folder / f"{name}.toml"
        config.write_text(CONFIG.format(network=network, rate=rate, crop=crop))
        command = [sys.executable, "-m", "fastvsr_models.train", config, "--cache", cache, "--out", folder / name]
        command += ["--threads", "1", "--device", "cpu", *(["--val", folder] if val else []), *options]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **keywords)
        return folder / name / "checkpoint.pt", done

    return start


def read(checkpoint):
    return torch.load(checkpoint, weights_only=True)


def test_hands_over(start):
    first, done = start("first", "--steps", 3)
    assert done.returncode == 0, done.stderr
    second, done = start("second", "--steps", 3, "--init", first, val=True)
    assert done.returncode == 0, done.stderr
    before, after = (read(checkpoint)["ema"]["decoder.condition.weight"] for checkpoint in (first, second))
    assert 0 < (after - before).abs().max() < 0.01


def test_resumes_where_it_stopped(start):
    checkpoint, _ = start("again", "--steps", 3)
    first = read(checkpoint)
    _, done = start("again", "--steps", 6)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((checkpoint.parent / "log.csv").open()))
    assert [int(row["step"]) for row in rows] == [3, 6]
    assert np.isfinite([float(row["loss"]) for row in rows]).all()
    second = read(checkpoint)
    assert second["step"] == 6
    assert second["minutes"] > first["minutes"]
    of_matrices, of_others = second["optimizers"]
    assert of_others["state"][0]["step"] == 6
    assert all(state["momentum"].abs().max() > 0 for state in of_matrices["state"].values())


def test_a_teacher_is_listened_to(start, tmp_path):
    rng = np.random.default_rng(0)
    crops = {name: rng.integers(0, 256, (2, side, side, 3), np.uint8) for name, side in (("lr", 24), ("hr", 96), ("taught", 96))}
    np.savez(tmp_path / "00000.npz", damages=np.ones((2, 3), np.float32), **crops)
    checkpoint, done = start("taught", "--steps", 3, "--teacher", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 crops of the teacher" in done.stdout
    alone, _ = start("alone", "--steps", 3)
    weights = (read(path)["ema"]["decoder.conv_out.weight"] for path in (checkpoint, alone))
    assert not torch.equal(*weights)
    twice, done = start("twice", "--steps", 3, "--teacher", tmp_path, network="compact-x2-xs")
    assert done.returncode == 0, done.stderr
    assert read(twice)["network"] == "compact-x2-xs"
    refused(start("bad", "--steps", 1, "--teacher", tmp_path / "none")[1], "no crops in")


def refused(done, message):
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_bad_input_is_an_error_in_words(start, tmp_path):
    refused(start("bad", "--steps", 1, cache=tmp_path / "none")[1], "make it with `python -m fastvsr_models.data")
    write_y4m(make_clip(4, 96, 96), tmp_path / "clip.y4m")
    build_cache(tmp_path, tmp_path / "x2", scale=2, kinds=("bi", "codec"))
    refused(start("bad", "--steps", 1, cache=tmp_path / "x2")[1], "is for x2, compact-xs for x4")
    refused(start("bad", "--steps", 1, network="huge")[1], "unknown network 'huge'; known: compact-xs")
    refused(start("bad", "--steps", 1, crop=20)[1], "expected data.crop a multiple of 8 for this network, got 20")
    (tmp_path / "text.pt").write_text("no checkpoint")
    refused(start("bad", "--steps", 1, "--init", tmp_path / "text.pt")[1], "is no checkpoint of train.py")
    other, _ = start("other", "--steps", 1)
    refused(start("bad", "--steps", 1, "--init", other, network="compact-s")[1], "is a checkpoint of compact-xs")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_config_fits_its_network(path):
    config = tomllib.loads(path.read_text())
    assert config["data"]["crop"] % (2 * SIZES[config["network"]].stride) == 0


@pytest.mark.parametrize("trouble", ["loss", "disk"])
def test_the_last_good_checkpoint_is_kept(start, trouble):
    checkpoint, done = start(f"trouble-{trouble}", "--steps", 2)
    assert done.returncode == 0, done.stderr
    before = checkpoint.read_bytes()
    if trouble == "loss":
        refused(start(f"trouble-{trouble}", "--steps", 40, rate=1e30)[1], "is kept as it was: lower optim.rate")
    else:  # the shell's `ulimit -f`: no file may become larger than this
        small = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))}
        refused(start(f"trouble-{trouble}", "--steps", 4, **small)[1], "The one before is kept")
    assert checkpoint.read_bytes() == before
    assert not list(checkpoint.parent.glob("*.tmp"))
