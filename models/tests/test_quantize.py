"""Stages in 8-bit integers."""

import hashlib
import tomllib
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import random_network

from fastvsr_models.export import DecoderGraph, IntegerDecoderGraph, add_int8, export_package, fused
from fastvsr_models.networks import SIZES
from fastvsr_models.upscalers import Package


@pytest.fixture(scope="module")
def package(tmp_path_factory, clip):
    folder, net = tmp_path_factory.mktemp("int8"), random_network("compact-xs")
    export_package(net, "small", folder, "test")
    add_int8(net, folder, [clip[:3, :48, :64], clip[:3, 40:88, 60:124]])
    return folder


@pytest.mark.parametrize("name", SIZES)
def test_the_form_for_integers_is_the_same_function(name, clip):
    net = random_network(name)
    size, frames = net.size, torch.from_numpy(clip[:2, :32, :48].copy())
    latent = torch.randn(2, size.latent, 32 // size.stride, 48 // size.stride)
    decoder = fused(net).decoder
    image, other = (graph(latent, frames) for graph in (DecoderGraph(decoder), IntegerDecoderGraph(decoder, net.decoder.up)))
    assert (image.int() - other.int()).abs().max() <= 1
    assert (image != other).float().mean() < 1e-3  # rounding alone differs


def test_the_manifest_names_the_graph_beside_the_other(package):
    stage = tomllib.loads((package / "model.toml").read_text())["stages"]["decoder"]
    for file in (stage, stage["int8"]):
        assert hashlib.sha256((package / file["file"]).read_bytes()).hexdigest() == file["sha256"]


def test_convolutions_work_on_8_bits_but_for_the_skip(package):
    graph = onnx.load(package / "decoder-int8.onnx").graph
    made = {output: node.op_type for node in graph.node for output in node.output}
    whole = [
        made.get(node.input[0]) == made.get(node.input[1]) == "DequantizeLinear" for node in graph.node if node.op_type == "Conv"
    ]
    assert len(whole) > 10
    assert whole.count(False) == 1


SHIPPED = [path.parent for path in sorted(Path(__file__).parents[1].glob("*/model.toml")) if "int8 =" in path.read_text()]


@pytest.mark.parametrize("package", SHIPPED, ids=lambda path: path.name)
def test_pixels_of_shipped_packages_stay_close(package, clip):
    before, after = (Package(package, provider)(clip[:3, 20:68, 30:94]) for provider in ("cpu", "cpu-int8"))
    assert before.shape == after.shape
    error = np.abs(before.astype(int) - after).mean()
    assert 0 < error < 1.5, error
