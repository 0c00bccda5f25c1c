import json

import numpy as np
import pytest
from conftest import make_clip
from PIL import Image

from fastvsr_models.data import Clips, build_cache, crop_to_multiple, pan, read_clip, sharpened, source_of
from fastvsr_models.degrade import degrade, resize_bicubic
from fastvsr_models.metrics import write_y4m


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    (folder / "stills").mkdir()
    for name, seed in (("beach-0", 1), ("beach-1", 2), ("city", 3)):
        write_y4m(make_clip(8, 160, 192, seed), folder / f"{name}.y4m")
    Image.fromarray(make_clip(1, 420, 540)[0]).save(folder / "stills" / "photo.jpg", quality=95)
    build_cache(folder, folder / "cache")
    return folder / "cache"


def test_cache_holds_aligned_pairs(cache):
    for entry in json.loads((cache / "index.json").read_text()):
        hr = np.load(cache / f"{entry['name']}.hr.npy")
        for file in [file for files in entry["kinds"].values() for file in files]:
            lr = np.load(cache / file)
            assert lr.shape == (len(hr), hr.shape[1] // 4, hr.shape[2] // 4, 3)
            assert np.abs(lr.astype(float) - degrade(hr, "bi")).mean() < 30


def test_crops_of_a_pair_show_the_same_place(cache):
    clips = Clips(cache, {"bi": 1.0}, seed=5)
    for _ in range(10):
        lr, hr = clips.sample(frames=4, crop=16)
        assert lr.shape == (4, 16, 16, 3)
        assert hr.shape == (4, 64, 64, 3)
        inner = np.abs(resize_bicubic(hr, 16, 16).astype(float) - lr)[:, 3:-3, 3:-3]
        assert inner.mean() < 2


def test_batches_follow_the_seed(cache):
    one, two, other = (Clips(cache, {"bi": 0.5, "codec": 0.5}, seed=s).batch(2, 4, 16) for s in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert not np.array_equal(one[0], other[0])


def test_sources_not_files_are_weighted(cache):
    clips = Clips(cache, {"bi": 1.0}, still_weight=0.2)
    weight = {e["name"]: w for e, w in zip(clips.entries, clips.weights, strict=True)}
    assert weight["photo"] == pytest.approx(0.2)
    assert weight["beach-0"] + weight["beach-1"] == pytest.approx(2**0.5 * weight["city"])


@pytest.mark.parametrize(
    ("stem", "source"),
    [
        ("osp-rio-2", "osp-rio"),
        ("city", "city"),
        ("cosmos-drive-a2-rear-left", "cosmos-drive-a"),
        ("pexels-6649832", "pexels-6649832"),
    ],
)
def test_source_names(stem, source):
    assert source_of(stem) == source


def test_pan_fits_images_barely_larger_than_the_window():
    image = np.zeros((386, 513, 3), np.uint8)
    for seed in range(20):
        assert pan(image, np.random.default_rng(seed)).shape == (16, 384, 512, 3)


def test_sharpening_steepens_edges_and_leaves_flats():
    clip = np.full((2, 32, 32, 3), 100, np.uint8)
    clip[:, :, 16:] = 150
    sharp = sharpened(clip, 0.5)
    assert (sharp[:, :, :8] == 100).all()
    assert (sharp[:, :, 24:] == 150).all()
    assert (sharp[:, :, 15] < 95).all()
    assert (sharp[:, :, 16] > 155).all()


def test_reading_and_cropping(tmp_path):
    clip = make_clip(3, 90, 100)
    write_y4m(clip, tmp_path / "clip.y4m")
    read = read_clip(tmp_path / "clip.y4m", frames=2)
    assert read.shape == (2, 90, 100, 3)
    assert crop_to_multiple(read, 32).shape == (2, 64, 96, 3)
