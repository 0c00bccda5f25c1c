import torch
from conftest import make_clip, random_network
from PIL import Image

from fastvsr_models.evaluate import examples
from fastvsr_models.metrics import write_y4m
from fastvsr_models.worth import crippled, worth


def test_each_cripple_lacks_one_thing():
    net, frames = random_network("compact-xs"), torch.rand(3, 3, 16, 24)
    nets = crippled(net)
    with torch.no_grad():
        results = {name: cripple(frames) for name, cripple in nets.items()}
        torch.testing.assert_close(results["whole"], net(frames))
        denoised = nets["latent by its mean"].denoise(frames)
        assert torch.equal(denoised, denoised[..., :1, :1].expand_as(denoised))
        assert torch.equal(nets["unet as identity"].denoise(frames), net.encoder(frames))
    assert len({round(result.sum().item(), 1) for result in results.values()}) == 3


def test_scores_by_folder_and_recipe(tmp_path):
    for folder in ("pictures", "clips"):
        (tmp_path / folder).mkdir()
    Image.fromarray(make_clip(1, 70, 90)[0]).save(tmp_path / "pictures" / "one.png")
    write_y4m(make_clip(4, 64, 96), tmp_path / "clips" / "two.y4m")
    net = random_network("compact-xs")
    scores = worth(net, examples([tmp_path / "pictures", tmp_path / "clips"], 4))
    assert list(scores["whole"]) == ["pictures", "bi", "bi+crf28", "blur2+bi+noise4+crf32"]
    assert scores["whole"]["pictures"] != scores["unet as identity"]["pictures"]
