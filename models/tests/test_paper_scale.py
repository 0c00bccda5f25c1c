import hashlib
import json
import subprocess
import sys
import tomllib

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("diffusers", reason="needs models[diffusers]")
from diffusers import AutoencoderKL, DDPMScheduler, EulerDiscreteScheduler, UNet2DConditionModel

from fastvsr_models import paper_scale
from fastvsr_models.upscalers import Element, Package

TIMESTEP = 399


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def as_stored(net):
    """With weights that half precision holds, as checkpoints of this size have them, so that the packages lose nothing."""
    return net.half().float().eval()


@pytest.fixture(scope="module")
def vae():
    """An f8 AutoencoderKL of Stable Diffusion's shape, 16 channels wide."""
    torch.manual_seed(0)
    config = paper_scale.SD_VAE | {"block_out_channels": (16, 16, 32, 32), "layers_per_block": 1, "norm_num_groups": 4}
    return as_stored(AutoencoderKL(**config, scaling_factor=0.5))


@pytest.fixture(scope="module")
def unet():
    """A UNet2DConditionModel with self- and cross-attention on two of three grids."""
    torch.manual_seed(1)
    net = UNet2DConditionModel(
        block_out_channels=(16, 32, 32),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=(2, 4, 4),
        cross_attention_dim=24,
        use_linear_projection=True,
    )
    return as_stored(net)


@pytest.fixture(scope="module")
def prompt():
    return torch.randn(1, 7, 24, generator=torch.Generator().manual_seed(2)).half().float()


def scheduler(kind="v_prediction"):
    """That of SD 2.1."""
    betas = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    return DDPMScheduler(prediction_type=kind, clip_sample=False, **betas)


def expected(vae, unet, prompt, frames, upscale, multiple, kind="v_prediction"):
    """The pipeline as one writes it with diffusers: uint8 [T, H, W, 3] -> 8-bit levels [T, 4H, 4W, 3], before rounding."""
    height, width = frames.shape[1:3]
    padded = np.pad(frames, ((0, 0), (0, -height % multiple), (0, -width % multiple), (0, 0)), "edge")
    lr = torch.from_numpy(padded).permute(0, 3, 1, 2).float() / 127.5 - 1
    latent = vae.encode(F.interpolate(lr, scale_factor=upscale, mode="bilinear")).latent_dist.mean * vae.config.scaling_factor
    predicted = unet(latent, TIMESTEP, prompt.expand(len(latent), -1, -1)).sample
    x0 = scheduler(kind).step(predicted, TIMESTEP, latent).pred_original_sample
    image = vae.decode(x0 / vae.config.scaling_factor).sample
    return (image.permute(0, 2, 3, 1).numpy()[:, : 4 * height, : 4 * width] + 1) * 127.5


def assert_same_picture(result, levels):
    exact = np.clip(levels, 0, 255)
    assert result.shape == exact.shape
    assert np.ptp(exact[:, 8:-8, 8:-8]) > 50
    # Half a level by rounding; the rest for conv_out, whose folded weights are rounded to half precision.
    assert np.abs(result - exact).max() <= 0.8


@pytest.fixture(scope="module")
def exported(vae, unet, prompt, tmp_path_factory):
    """An f16 package with a decoder that was trained: different from the f8 one."""
    f16 = paper_scale.to_f16(vae)
    f16.decoder.conv_out.weight.requires_grad_(False).mul_(1.5)
    folder = tmp_path_factory.mktemp("tiny-sd")
    about = {"name": "tiny-sd", "license": "MIT", "description": "test"}
    paper_scale.export_package(folder, about, f16, unet, scheduler(), TIMESTEP, prompt)
    return f16, folder


def test_f16_decoder_begins_as_the_f8_decoder(vae):
    f16 = paper_scale.to_f16(vae)
    assert {k: v.shape for k, v in f16.state_dict().items()} == {k: v.shape for k, v in vae.state_dict().items()}
    assert all(torch.equal(v, vae.state_dict()[k]) for k, v in f16.state_dict().items())
    z = torch.randn(1, 4, 6, 8)
    assert vae.decode(z).sample.shape == (1, 3, 48, 64)
    assert f16.decode(z).sample.shape == (1, 3, 96, 128)


def test_copy_is_folded_exactly(vae):
    f16, z = paper_scale.to_f16(vae).double(), torch.randn(1, 4, 6, 8).double()
    torch.testing.assert_close(paper_scale.folded(f16).decode(z).sample, f16.decode(z).sample, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_x0_is_the_schedulers(unet, prompt, kind):
    latent = torch.randn(2, 4, 8, 8)
    predicted = unet(latent, TIMESTEP, prompt.expand(2, -1, -1)).sample
    x0 = scheduler(kind).step(predicted, TIMESTEP, latent).pred_original_sample
    torch.testing.assert_close(paper_scale.UNetGraph(unet, scheduler(kind), TIMESTEP, prompt)(latent), x0)


@pytest.mark.parametrize(("frames", "height", "width", "window"), [(5, 32, 48, 2), (3, 20, 37, 4), (1, 64, 16, 1)])
def test_package_gives_what_diffusers_gives(exported, unet, prompt, clip, frames, height, width, window):
    f16, folder = exported
    lr = clip[:frames, :height, :width]
    assert_same_picture(Package(folder, window=window)(lr), expected(f16, unet, prompt, lr, 2, 16))


def test_element_runs_the_package(exported, unet, prompt, clip, plugin_path):
    f16, folder = exported
    lr = clip[:5, :20, :40]
    results = [Element(folder, plugin_path, f"execution-provider=cpu window={window}")(lr) for window in (1, 4)]
    assert_same_picture(results[0], expected(f16, unet, prompt, lr, 2, 16))
    # The frames do not know one another.
    assert np.abs(results[0].astype(int) - results[1]).max() <= 1


def test_element_refuses_to_tile_it(exported, clip, plugin_path, capfd):
    _, folder = exported
    with pytest.raises(subprocess.CalledProcessError):
        Element(folder, plugin_path, "execution-provider=cpu max-memory=200000000")(clip[:1, :20, :40])
    assert "the model's manifest has no `geometry.memory`" in capfd.readouterr().err


def test_the_f8_baseline_is_the_pipeline_as_it_was(vae, unet, prompt, clip, tmp_path):
    about = {"name": "f8", "license": "MIT", "description": "test"}
    paper_scale.export_package(tmp_path, about, vae, unet, scheduler("epsilon"), TIMESTEP, prompt, decoder_stride=8)
    lr = clip[:2, :20, :37]
    assert_same_picture(Package(tmp_path)(lr), expected(vae, unet, prompt, lr, 4, 8, "epsilon"))


def test_manifest_promises_no_tiles_and_names_the_data(exported):
    _, folder = exported
    manifest = tomllib.loads((folder / "model.toml").read_text())
    assert manifest["geometry"] == {"scale": 4, "encoder-stride": 8, "decoder-stride": 16, "multiple": 16}
    for stage in manifest["stages"].values():
        assert "halo" not in stage
        assert "state" not in stage
        for file in (stage, *stage["data"]):
            assert hashlib.sha256((folder / file["file"]).read_bytes()).hexdigest() == file["sha256"]
        graph = onnx.load(folder / stage["file"], load_external_data=False).graph
        outside = {t.name for t in graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL}
        large = {t.name for t in graph.initializer if np.prod(t.dims) >= 1024}
        assert large
        assert large <= outside
        assert {t.data_type for t in graph.initializer if t.name in large} == {onnx.TensorProto.FLOAT16}


@pytest.fixture(scope="module")
def pipeline(vae, unet, tmp_path_factory):
    """A saved pipeline with the scheduler of SD-Turbo's class and a text encoder that knows three words."""
    transformers = pytest.importorskip("transformers", reason="needs models[diffusers]")
    folder = tmp_path_factory.mktemp("pipeline")
    vae.save_pretrained(folder / "vae")
    unet.save_pretrained(folder / "unet")
    EulerDiscreteScheduler.from_config(scheduler("epsilon").config).save_pretrained(folder / "scheduler")
    words = {"!": 0, "<|startoftext|>": 1, "<|endoftext|>": 2}
    (folder / "vocab.json").write_text(json.dumps(words))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), pad_token="!", unk_token="!", model_max_length=7
    )
    tokenizer.save_pretrained(folder / "tokenizer")
    torch.manual_seed(3)
    config = transformers.CLIPTextConfig(
        vocab_size=3, hidden_size=24, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=7, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    transformers.CLIPTextModel(config).save_pretrained(folder / "text_encoder")
    return folder


def test_a_saved_pipeline_is_exported(pipeline, vae, unet, clip, tmp_path, monkeypatch):
    trained = paper_scale.to_f16(vae)
    trained.decoder.conv_out.weight.requires_grad_(False).mul_(1.5)
    trained.save_pretrained(tmp_path / "f16")
    command = f"export {pipeline} --timestep {TIMESTEP} --decoder {tmp_path / 'f16'} --license MIT --out {tmp_path / 'out'}"
    monkeypatch.setattr(sys, "argv", ["paper_scale", *command.split()])
    paper_scale.main()
    prompt = paper_scale.empty_prompt(pipeline)
    assert prompt.shape == (1, 7, 24)
    lr = clip[:2, :20, :37]
    assert_same_picture(Package(tmp_path / "out")(lr), expected(trained, unet, prompt, lr, 2, 16, "epsilon"))
    assert tomllib.loads((tmp_path / "out/model.toml").read_text())["name"] == "out"


def test_a_folder_without_a_pipeline_is_refused(tmp_path):
    with pytest.raises(SystemExit, match=r"no `vae` in .*expected the folder of a saved"):
        paper_scale.load(tmp_path)


def test_what_cannot_be_exported_is_refused(vae, unet, prompt):
    def refused(message, vae=vae, unet=unet, steps=None, timestep=TIMESTEP, prompt=prompt):
        with pytest.raises(ValueError, match=message):
            paper_scale.stages(vae, unet, steps or scheduler(), timestep, prompt)

    refused("timestep: expected 0 to 999, got 1000", timestep=1000)
    refused("embedding: expected 24, got 23", prompt=prompt[..., 1:])
    zero_snr = DDPMScheduler.from_config(scheduler("epsilon").config, rescale_betas_zero_snr=True)
    refused("pure noise", steps=zero_snr, timestep=999)
    f4 = AutoencoderKL(block_out_channels=(16, 16, 16), down_block_types=("DownEncoderBlock2D",) * 3,
                       up_block_types=("UpDecoderBlock2D",) * 3, norm_num_groups=4)  # fmt: skip
    refused("stride of the VAE: expected 8, got 4", vae=f4)


def test_work_at_full_size():
    f8, parameters = paper_scale.work(8)
    f16, _ = paper_scale.work(16)
    assert parameters == {"vae": 83_653_863, "unet": 865_910_724}
    assert 4.0 < sum(f8.values()) / sum(f16.values()) < 5.0
    assert f8["unet"] / f16["unet"] > 4 > f8["decoder"] / f16["decoder"] * 0.9
