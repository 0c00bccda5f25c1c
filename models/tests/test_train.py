"""Every stage of training runs, hands over to the next, resumes, and changes only what it should."""

import csv
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import make_clip

from fastvsr_models.data import build_cache
from fastvsr_models.metrics import write_y4m

CONFIG = """
stage = "{stage}"
network = "compact-s"
[loss]
temporal = {term}
perceptual = {term}
lbg = {term}
[data]
frames = 2
crop = 16
batch = 2
kinds = {{ bi = 1.0 }}
[optim]
rate = 1e-3
warmup = 1
steps = {steps}
decay = 1
ema = 0.9
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    write_y4m(make_clip(4, 96, 96), folder / "clip.y4m")
    build_cache(folder, folder / "cache")

    def start(name, stage, *options, steps=3, loss=False):
        config = folder / f"{name}.toml"
        config.write_text(CONFIG.format(stage=stage, steps=steps, term=0.1 * loss))
        command = [sys.executable, "-m", "fastvsr_models.train", config, "--cache", folder / "cache", "--out", folder / name]
        subprocess.run([*map(str, command), "--threads", "1", "--device", "cpu", *map(str, options)], check=True)
        return folder / name / "checkpoint.pt"

    return start


def weights(checkpoint, part):
    net = torch.load(checkpoint, weights_only=True)["net"]
    return {k: v for k, v in net.items() if k.startswith(part)}


def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


def test_stages_hand_over(run):
    vae = run("vae", "vae")
    denoise = run("denoise", "denoise", "--reference", vae)
    decoder = run("decoder", "decoder", "--init", denoise, "--reference", vae, loss=True)
    joint = run("joint", "joint", "--init", decoder)
    averaged = torch.load(vae, weights_only=True)["ema"]
    f8_decoder = {k: v for k, v in averaged.items() if k.startswith("decoder.")}
    assert same(f8_decoder, weights(denoise, "decoder."))
    assert same(weights(denoise, "encoder."), weights(decoder, "encoder."))
    assert not same(weights(denoise, "decoder."), weights(decoder, "decoder."))
    assert same(weights(denoise, "encoder."), {k: v for k, v in averaged.items() if k.startswith("encoder.")})
    assert not same(weights(decoder, "encoder."), weights(joint, "encoder."))


def test_resumes_where_it_stopped(run):
    checkpoint = run("again", "joint", "--eval-every", "2", steps=4)
    run("again", "joint", "--eval-every", "2", steps=6)
    rows = list(csv.DictReader((checkpoint.parent / "log.csv").open()))
    assert [int(row["step"]) for row in rows] == [2, 4, 6]
    assert np.isfinite([float(row["loss"]) for row in rows]).all()
    assert torch.load(checkpoint, weights_only=True)["step"] == 6
