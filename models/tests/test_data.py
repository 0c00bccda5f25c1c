import json

import numpy as np
import pytest
import torch
from conftest import make_clip
from PIL import Image

from fastvsr_models.data import Clips, build_cache, crop_to_multiple, pan, read_clip, source_of, turned
from fastvsr_models.degrade import degrade, resize_bicubic
from fastvsr_models.metrics import write_y4m


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    (folder / "stills").mkdir()
    for name, seed in (("beach-0", 1), ("beach-1", 2), ("city", 3)):
        write_y4m(make_clip(8, 160, 192, seed), folder / f"{name}.y4m")
    Image.fromarray(make_clip(1, 420, 540)[0]).save(folder / "stills" / "photo.jpg", quality=95)
    return folder


@pytest.fixture(scope="module")
def cache(folder):
    build_cache(folder, folder / "cache")
    return folder / "cache"


@pytest.mark.parametrize("scale", [2, 4])
def test_cache_holds_aligned_pairs(folder, tmp_path, scale):
    build_cache(folder, tmp_path, 3, scale, ("bi", "codec"))
    for entry in json.loads((tmp_path / "index.json").read_text()):
        hr = np.load(tmp_path / f"{entry['name']}.hr.npy")
        assert len(hr) == (1 if entry["still"] else 3)
        for version in [version for versions in entry["kinds"].values() for version in versions]:
            lr = np.load(tmp_path / version["file"])
            assert lr.shape == (len(hr), hr.shape[1] // scale, hr.shape[2] // scale, 3)
            assert np.abs(lr.astype(float) - degrade(hr, "bi", scale=scale)).mean() < 30


def test_cache_takes_up_kinds_later(folder, tmp_path):
    build_cache(folder, tmp_path, 3, kinds=("bi",))
    before = (tmp_path / "city.hr.npy").stat().st_mtime_ns
    build_cache(folder, tmp_path, 3, kinds=("bi", "harsh"))
    index = json.loads((tmp_path / "index.json").read_text())
    assert [set(entry["kinds"]) for entry in index] == [{"bi", "harsh"}] * 4
    assert (tmp_path / "city.hr.npy").stat().st_mtime_ns == before
    assert any(sum(version["damage"]) > 0.5 for entry in index for version in entry["kinds"]["harsh"])


def test_crops_of_a_pair_show_the_same_place(cache):
    lr, hr, turns, damages = Clips(cache, {"bi": 1.0}, seed=5).batch(10, 16)
    assert not damages.any()
    for low, high in zip(turned(lr, turns).numpy(), turned(hr, turns).numpy(), strict=True):
        inner = np.abs(resize_bicubic(high[None], 16, 16)[0].astype(float) - low)[3:-3, 3:-3]
        assert inner.mean() < 2


def test_turns_are_the_samples_own():
    crops = torch.arange(2 * 3 * 3 * 1).view(2, 3, 3, 1)
    turns = torch.tensor([[True, False, True], [True, True, False]])
    one, other = turned(crops, turns)
    assert torch.equal(one, crops[0].flip(0).transpose(0, 1))
    assert torch.equal(other, crops[1].flip(0, 1))


def test_batches_follow_the_seed(cache):
    one, two, other = (Clips(cache, {"bi": 0.5, "codec": 0.5}, seed=s).batch(2, 16) for s in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one[0], other[0])


def test_missing_cache_or_kind_is_an_error_in_words(folder, tmp_path):
    with pytest.raises(SystemExit, match="no cache in"):
        Clips(tmp_path / "none", {"bi": 1.0})
    build_cache(folder, tmp_path, 1, kinds=("bi",))
    with pytest.raises(SystemExit, match="has all the kinds bi, harsh"):
        Clips(tmp_path, {"bi": 0.5, "harsh": 0.5})


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
        assert pan(image, np.random.default_rng(seed), 16, 384, 512).shape == (16, 384, 512, 3)


def test_reading_and_cropping(tmp_path):
    clip = make_clip(3, 90, 100)
    write_y4m(clip, tmp_path / "clip.y4m")
    read = read_clip(tmp_path / "clip.y4m", frames=2)
    assert read.shape == (2, 90, 100, 3)
    assert crop_to_multiple(read, 32).shape == (2, 64, 96, 3)
