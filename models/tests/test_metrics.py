import numpy as np
import pytest
from conftest import make_clip
from PIL import Image

from fastvsr_models.degrade import degrade
from fastvsr_models.evaluate import read_folder, table
from fastvsr_models.metrics import measure, psnr_chroma, psnr_y, ssim_y, temporal
from fastvsr_models.upscalers import bicubic, lanczos


def test_psnr_of_a_known_error():
    clip = np.full((2, 32, 32, 3), 100, np.uint8)
    worse = clip + np.uint8(10)
    # 10 levels of grey are 10 * 219/255 levels of limited-range Y.
    assert psnr_y(worse, clip) == pytest.approx(20 * np.log10(255 / (10 * 219 / 255)), abs=1e-3)
    assert ssim_y(clip, clip) == pytest.approx(1)


def test_border_is_left_out():
    clip = np.full((1, 32, 32, 3), 100, np.uint8)
    framed = clip.copy()
    framed[:, :4] = framed[:, :, -4:] = 0
    assert psnr_y(framed, clip) > 90


def test_chroma_psnr_sees_colour_alone():
    clip = np.full((1, 32, 32, 3), 100, np.uint8)
    assert min(psnr_chroma(clip + np.uint8(10), clip)) > 90
    bluer = clip + np.uint8([0, 0, 10])
    # 10 levels of blue are 10 * 112/255 levels of Cb and 10 * 18.214/255 of Cr.
    expected = [20 * np.log10(255 / (10 * weight / 255)) for weight in (112, 18.214)]
    assert psnr_chroma(bluer, clip) == pytest.approx(expected, abs=1e-3)


def test_pictures_are_measured_as_clips_of_one_frame(tmp_path):
    Image.fromarray(make_clip(1, 99, 130)[0]).save(tmp_path / "picture.png")
    ((name, hr),) = read_folder(tmp_path, 4)
    assert (name, hr.shape) == ("picture", (1, 96, 128, 3))
    row = measure(bicubic(degrade(hr, "bi")), hr)
    assert "tof" not in row
    assert "tOF" not in table({"bi": {"bicubic": {name: row}}})
    clip = row | {"tof": 1.0}
    assert table({"bi": {"bicubic": {name: row, "clip": clip}}}).splitlines()[-2].endswith("|  |")


def test_all_measures_order_good_and_bad():
    hr = make_clip(frames=4, height=192, width=256)
    lr = degrade(hr, "bi")
    same, good, bad = measure(hr, hr), measure(bicubic(lr), hr), measure(bicubic(degrade(hr, "bi+noise12")), hr)
    for key in ("psnr_y", "ssim", "vmaf_neg", "xpsnr"):
        assert same[key] > good[key] > bad[key], key
    for key in ("tof", "flicker"):
        assert same[key] == 0
        assert good[key] < bad[key], key


def test_flicker_sees_what_psnr_does_not():
    clip = np.full((6, 64, 64, 3), 100, np.uint8)
    steady, flickering = clip + np.uint8(4), clip.copy()
    flickering[::2] += 4
    flickering[1::2] -= 4
    assert psnr_y(steady, clip) == pytest.approx(psnr_y(flickering, clip))
    assert temporal(steady, clip)["flicker"] == 0
    assert temporal(flickering, clip)["flicker"] > 7


def test_interpolations_agree_roughly():
    hr = make_clip(frames=1, height=96, width=96)
    lr = degrade(hr, "bi")
    assert abs(psnr_y(bicubic(lr), hr) - psnr_y(lanczos(lr), hr)) < 1
