import numpy as np
import pytest
from PIL import Image

from fastvsr_models.degrade import (
    damage,
    degrade,
    from_yuv420,
    harsh_recipe,
    random_recipe,
    resize_bicubic,
    resize_matrix,
    to_yuv420,
)


def test_bicubic_is_the_literatures(clip):
    row = resize_matrix(64, 16)[8]
    taps = row[np.flatnonzero(row)]
    # (-x^3 / 2 + 5 x^2 / 2 - 4 x + 2) / 4 at x = 15/8, 13/8, 11/8, 9/8: an antialiased kernel with a = -1/2.
    np.testing.assert_allclose(taps[:4], [-0.00170898, -0.01098633, -0.01831055, -0.01196289], atol=1e-6)
    np.testing.assert_allclose(taps, taps[::-1], atol=1e-6)
    pillow = np.asarray(Image.fromarray(clip[0]).resize((32, 24), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(degrade(clip[:1], "bi")[0] - pillow)[2:-2, 2:-2].max() <= 1


def test_resize_keeps_constants_and_ramps(clip):
    flat = np.full((1, 16, 16, 3), 77, np.uint8)
    assert (resize_bicubic(flat, 4, 4) == 77).all()
    assert (resize_bicubic(flat, 64, 64) == 77).all()
    ramp = np.tile(np.arange(0, 256, 4, dtype=np.uint8)[None, None, :, None], (1, 8, 1, 3))
    down = resize_bicubic(ramp, 2, 16)[0, 0, 2:-2, 0].astype(int)
    assert set(np.diff(down)) == {16}


def test_yuv_round_trip_is_unbiased(clip):
    smooth = np.stack([resize_bicubic(clip, 8, 8)[i] for i in range(2)])
    smooth = resize_bicubic(smooth, 64, 64)
    back = np.stack([from_yuv420(to_yuv420(f), 64, 64) for f in smooth])
    error = back.astype(float) - smooth
    assert abs(error.mean()) < 0.2
    assert np.abs(error).mean() < 2


@pytest.mark.parametrize(
    "recipe",
    [
        "bi",
        "bd",
        "area",
        "bi+crf28",
        "bi+h265-30",
        "bi+vp9-50",
        "bi+av1-55",
        "blur1.2x0.6@30+bi+noise4+jpeg60",
        "size150+h264-28+bi+vp9-40",
    ],
)
def test_deterministic_shape_and_loss(clip, recipe):
    first, second = degrade(clip, recipe, seed=3), degrade(clip, recipe, seed=3)
    assert first.shape == (6, 24, 32, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, second)
    error = np.abs(first.astype(float) - degrade(clip, "bi")).mean()
    assert (error == 0) if recipe == "bi" else (0.1 < error < 40)


def test_stronger_compression_loses_more(clip):
    clean = degrade(clip, "bi").astype(float)
    errors = [np.abs(degrade(clip, f"bi+crf{crf}") - clean).mean() for crf in (15, 28, 40)]
    assert errors == sorted(errors)
    assert errors[0] < errors[2]


def test_noise_follows_the_seed(clip):
    assert not np.array_equal(degrade(clip, "bi+noise4", 1), degrade(clip, "bi+noise4", 2))


@pytest.mark.parametrize("make", [random_recipe, harsh_recipe])
def test_random_recipes_are_valid_and_reproducible(clip, make):
    recipes = [make(np.random.default_rng(s)) for s in range(12)]
    assert recipes == [make(np.random.default_rng(s)) for s in range(12)]
    assert len(set(recipes)) > 8
    for recipe in recipes[:4]:
        assert degrade(clip[:3], recipe).shape == (3, 24, 32, 3)


def test_damage_is_told_from_the_recipe():
    assert damage("bi") == (0, 0, 0)
    blur, noise, codec = damage("blur1.5x1@30+size150+noise4+h264-18+bi+vp9-56")
    assert (blur, noise, codec) == (0.5, 0.5, 1)
    assert damage("bi+crf28") == damage("bi+h264-28") == (0, 0, 0.5)


def test_a_recipe_has_to_end_at_the_final_size(clip):
    with pytest.raises(ValueError, match="add a step `bi`"):
        degrade(clip, "size150+noise4")


def test_unknown_step_is_an_error(clip):
    with pytest.raises(ValueError, match="sharpen"):
        degrade(clip, "bi+sharpen")
