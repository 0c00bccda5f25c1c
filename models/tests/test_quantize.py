"""Packages in 8-bit integers."""

import hashlib
import tomllib
from pathlib import Path

import numpy as np
import onnx
import pytest

from fastvsr_models.quantize import quantize
from fastvsr_models.upscalers import Package

SHIPPED = Path(__file__).parents[1] / "compact-s"


@pytest.fixture(scope="module")
def packages(tmp_path_factory, clip):
    out = tmp_path_factory.mktemp("packages") / "small-int8"
    quantize(SHIPPED, [clip[:3, :48, :64], clip[:3, 40:88, 60:124]], out)
    return SHIPPED, out, [clip[:3, 20:68, 30:94]]


def test_manifest_names_the_new_graphs(packages):
    _, out, _ = packages
    manifest = tomllib.loads((out / "model.toml").read_text())
    assert manifest["name"] == "small-int8"
    assert manifest["description"].endswith("in 8-bit integers")
    for stage in manifest["stages"].values():
        assert hashlib.sha256((out / stage["file"]).read_bytes()).hexdigest() == stage["sha256"]


def test_convolutions_work_on_8_bits(packages):
    _, out, _ = packages
    graph = onnx.load(out / "decoder.onnx").graph
    made = {output: node.op_type for node in graph.node for output in node.output}
    convolutions = [node for node in graph.node if node.op_type in ("Conv", "ConvTranspose")]
    assert convolutions
    assert all(made.get(name) == "DequantizeLinear" for node in convolutions for name in node.input[:2])


def test_pixels_stay_close(packages):
    package, out, clips = packages
    before, after = Package(package)(clips[0]), Package(out)(clips[0])
    assert before.shape == after.shape
    assert np.abs(before.astype(int) - after).mean() < 1.5
