"""Crops are made once, added to, and say what the teacher said in the fine detail of luma alone."""

import numpy as np
import pytest
import torch
from conftest import make_clip

from fastvsr_models import teacher, upscalers
from fastvsr_models.data import build_cache
from fastvsr_models.metrics import write_y4m
from fastvsr_models.teacher import SOFT, Lessons, lesson, lowpass


def darker(clip):
    """A teacher that can be told from the original."""
    return torch.from_numpy(upscalers.bicubic(clip.numpy()) // 2)


@pytest.fixture
def made(tmp_path, monkeypatch):
    monkeypatch.setattr(teacher, "SHARD", 2)
    write_y4m(make_clip(4, 272, 272), tmp_path / "clip.y4m")
    build_cache(tmp_path, tmp_path / "cache", frames=2, kinds=("codec", "real", "harsh"))
    teacher.make(tmp_path / "cache", tmp_path / "crops", 2, darker)
    return tmp_path


def test_crops_are_aligned_and_added_to(made):
    first = made / "crops" / "00000.npz"
    before = first.read_bytes()
    teacher.make(made / "cache", made / "crops", 4, darker)
    assert first.read_bytes() == before
    lessons = Lessons(made / "crops")
    assert lessons.lr.shape == (4, 48, 48, 3)
    low, (high, taught) = torch.zeros(3, 40, 40, 3), torch.zeros(2, 3, 160, 160, 3)
    lessons.fill(low, high, taught, torch.zeros(3, 3), torch.zeros(3, 3))
    # The margin was the teacher's alone, so away from the borders it is what it makes of the crop.
    expected = darker(low.to(torch.uint8))
    assert torch.equal(taught[:, 16:-16, 16:-16], expected[:, 16:-16, 16:-16].float())
    assert (high - 2 * taught).abs().mean() < 30


def test_the_teacher_is_the_network_that_ncnn_runs():
    pytest.importorskip("spandrel", reason="needs models[adopt]")
    pytest.importorskip("ncnn")
    lr = make_clip(1, 48, 64)
    taught = teacher.Teacher("animevideov3")(torch.from_numpy(lr)).numpy()
    peer = upscalers.Ncnn(upscalers.realesrgan("animevideov3"))(lr)
    assert taught.shape == peer.shape == (1, 192, 256, 3)
    assert np.abs(taught.astype(int) - peer).mean() < 1  # bfloat16, where that is faster


def test_a_missing_folder_is_an_error_in_words(tmp_path):
    with pytest.raises(SystemExit, match="make them with"):
        Lessons(tmp_path)


def test_a_lesson_keeps_the_coarse_part():
    torch.manual_seed(0)
    original, fine = torch.rand(1, 1, 96, 96), 0.1 * torch.rand(1, 1, 96, 96)
    bad, good = torch.tensor([[0.0, 0.2, 0.9]]), torch.zeros(1, 3)
    aim = lesson(original, original + fine + 0.3, bad)
    assert (lowpass(aim) - lowpass(original)).abs().max() < 0.01
    assert torch.allclose(aim - original, fine - lowpass(fine), atol=1e-5)
    assert torch.allclose(lesson(original, original + 0.3, bad), original, atol=1e-5)
    assert torch.equal(lesson(original, original + fine, good), original)
    sharp = lesson(original, original + fine, bad, sharpen=0.5)
    assert torch.allclose(sharp - aim, 0.5 * (aim - lowpass(aim, SOFT)), atol=1e-5)
    assert torch.equal(lesson(original, original + fine, good, sharpen=0.5), original)
