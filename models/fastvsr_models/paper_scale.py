"""Paper scale: a checkpoint in diffusers' format, of Stable Diffusion's size -> a model package. Needs `models[diffusers]`.

    python -m fastvsr_models.paper_scale export PIPELINE --timestep 399 --decoder VAE --license LICENCE --out PACKAGE
    python -m fastvsr_models.paper_scale work

PIPELINE is what diffusers saves for an image model of the class of SD 2.1 or SD-Turbo, tuned for one-step restoration: folders
`vae` (AutoencoderKL, f8), `unet` (UNet2DConditionModel), `scheduler`, `text_encoder` and `tokenizer`. The recipe is that of the
paper and of its baselines: the latent of the upscaled LR frame is taken for the noisy latent at one fixed timestep, no noise is
added, the prompt is empty, and one evaluation gives x0 by the scheduler's own constants.

The f16 decoder is the f8 one with another last layer (`ShuffleCopyConv`), so its checkpoint is an AutoencoderKL too, with the
same keys: take `to_f16(vae)`, train its decoder, `save_pretrained`, and give the folder as --decoder.

Unlike the compact networks these have no memory and see each frame alone, so windows of any length give the same pixels. But
attention and GroupNorm look at the whole frame: the manifest has neither halos nor `memory`, and the element refuses to tile.
"""

import argparse
import copy
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .networks import bilinear_filter, fold_copy, fold_shuffle, pad_edges
from .package import Stage, to_frames, to_nchw, write_package

# Stable Diffusion 2.1 and SD-Turbo, whose UNet has 866 million parameters.
SD_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
SD_UNET = {
    "block_out_channels": (320, 640, 1280, 1280),
    "attention_head_dim": (5, 10, 20, 20),
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}
SD_PROMPT = (1, 77, 1024)


class ShuffleCopyConv(nn.Conv2d):
    """The end of the f16 decoder: features [4C, R] -> PixelShuffle(2) -> copied 4 times [4C, 2R] -> conv_out -> [3, 2R]."""

    def forward(self, x):
        return super().forward(F.pixel_shuffle(x, 2).repeat(1, 4, 1, 1))


class FoldedConv(nn.Conv2d):
    """The same function without the copy and without features at 2R: a convolution at R and PixelShuffle. Exact."""

    def forward(self, x):
        return F.pixel_shuffle(super().forward(x), 2)


def like(layer, kind, weight, bias):
    """A 3x3 convolution of class `kind` with the given parameters."""
    new = kind(weight.shape[1], weight.shape[0], 3, padding=1, device="meta")
    new.weight, new.bias = nn.Parameter(weight, layer.weight.requires_grad), nn.Parameter(bias, layer.bias.requires_grad)
    return new


def to_f16(vae):
    """A copy of an f8 AutoencoderKL with the f16 decoder: every weight is the f8 decoder's, and so are the names."""
    vae = copy.deepcopy(vae)
    end = vae.decoder.conv_out
    vae.decoder.conv_out = like(end, ShuffleCopyConv, end.weight.data, end.bias.data)
    return vae


def folded(vae):
    """A copy of `to_f16`'s result for export, the copy folded away."""
    vae = copy.deepcopy(vae)
    end = vae.decoder.conv_out
    weight = fold_shuffle(fold_copy(end.weight.data))
    vae.decoder.conv_out = like(end, FoldedConv, weight, end.bias.data.repeat_interleave(4))
    return vae


class EncoderGraph(nn.Module):
    """frames uint8 [T, H, W, 3] -> scaled latent [T, C, upscale H / 8, upscale W / 8], the mean of q(z|x)."""

    def __init__(self, vae, upscale=2):
        super().__init__()
        self.vae, self.upscale = vae, upscale

    def forward(self, frames):
        x = pad_edges(to_nchw(frames) / 127.5 - 1, 1)
        x = F.pixel_shuffle(F.conv2d(x, bilinear_filter(self.upscale)), self.upscale)
        config = self.vae.config
        return (self.vae.encode(x).latent_dist.mode() - (config.shift_factor or 0)) * config.scaling_factor


class UNetGraph(nn.Module):
    """latent -> denoised: x0 by one evaluation at `timestep`, with the prompt's embedding [1, L, D] as a constant."""

    def __init__(self, unet, scheduler, timestep, prompt):
        super().__init__()
        self.unet, self.timestep = unet, timestep
        self.kind = scheduler.config.prediction_type
        signal = float(scheduler.alphas_cumprod[timestep])
        self.signal, self.noise = signal**0.5, (1 - signal) ** 0.5
        self.register_buffer("prompt", prompt)

    def forward(self, latent):
        prompt = self.prompt.expand(latent.shape[0], -1, -1)
        predicted = self.unet(latent, self.timestep, prompt, return_dict=False)[0]
        if self.kind == "v_prediction":
            return self.signal * latent - self.noise * predicted
        if self.kind == "epsilon":
            return (latent - self.noise * predicted) / self.signal
        return predicted


class DecoderGraph(nn.Module):
    """denoised [T, C, h, w] -> frames_hr uint8 [T, 16h, 16w, 3] (f8: 8h, 8w)."""

    def __init__(self, vae):
        super().__init__()
        self.vae = vae

    def forward(self, denoised):
        config = self.vae.config
        x = self.vae.decode(denoised / config.scaling_factor + (config.shift_factor or 0), return_dict=False)[0]
        return to_frames(127.5 * x + 128)


def check(vae, unet, scheduler, timestep, prompt):
    """Refuse what the three graphs cannot express, with what was expected and what came."""

    def expect(what, got, *expected):
        if got not in expected:
            raise ValueError(f"{what}: expected {' or '.join(map(str, expected))}, got {got}")

    expect("stride of the VAE", 2 ** (len(vae.config.block_out_channels) - 1), 8)
    expect("colours of the VAE", (vae.config.in_channels, vae.config.out_channels), (3, 3))
    channels = vae.config.latent_channels
    expect("channels into and out of the UNet", (unet.config.in_channels, unet.config.out_channels), (channels, channels))
    for key in ("class_embed_type", "addition_embed_type", "encoder_hid_dim_type", "num_class_embeds"):
        expect(f"{key} of the UNet", unet.config[key], None)
    expect("width of the prompt's embedding", prompt.shape[-1], unet.config.cross_attention_dim)
    expect("prediction type of the scheduler", scheduler.config.prediction_type, "epsilon", "v_prediction", "sample")
    steps = scheduler.config.num_train_timesteps
    if not 0 <= timestep < steps:
        raise ValueError(f"timestep: expected 0 to {steps - 1}, got {timestep}")
    if scheduler.config.prediction_type == "epsilon" and float(scheduler.alphas_cumprod[timestep]) < 1e-6:
        raise ValueError(f"timestep {timestep} is pure noise, of which epsilon-prediction gives no x0: expected a smaller one")


def stages(vae, unet, scheduler, timestep, prompt, decoder_stride=16):
    """The three modules of a package. `vae` is an f8 AutoencoderKL, or the result of `to_f16`.

    `decoder_stride=8` is the symmetric baseline: frames upscaled x4 before the encoder, four times the latents, f8 decoder.
    """
    check(vae, unet, scheduler, timestep, prompt)
    f16 = decoder_stride == 16
    decoder = folded(vae if isinstance(vae.decoder.conv_out, ShuffleCopyConv) else to_f16(vae)) if f16 else vae
    return {
        "encoder": Stage(EncoderGraph(vae, 2 if f16 else 4), ("frames",)),
        "unet": Stage(UNetGraph(unet, scheduler, timestep, prompt), ("latent",)),
        "decoder": Stage(DecoderGraph(decoder), ("denoised",)),
    }


def export_package(folder, about, vae, unet, scheduler, timestep, prompt, decoder_stride=16, window=4):
    """Write the package of a pipeline into `folder`; `about` as for `package.write_package`. All modules in float32."""
    modules = stages(vae.eval(), unet.eval(), scheduler, timestep, prompt, decoder_stride)
    cells = 2 ** (len(unet.config.block_out_channels) - 1)  # the UNet halves the latent grid so often
    multiple = cells * (4 if decoder_stride == 16 else 2)
    geometry = {"scale": 4, "encoder-stride": 8, "decoder-stride": decoder_stride, "multiple": multiple}
    write_package(folder, about, geometry, window, modules, external=True, example=(multiple, 2 * multiple))


def empty_prompt(pipeline):
    """The embedding [1, L, D] of the empty prompt, by the pipeline's own text encoder."""
    from transformers import CLIPTextModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(pipeline, subfolder="tokenizer", local_files_only=True)
    encoder = CLIPTextModel.from_pretrained(pipeline, subfolder="text_encoder", local_files_only=True)
    tokens = tokenizer("", padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt").input_ids
    with torch.no_grad():
        return encoder.float()(tokens)[0]


def load(pipeline, decoder=None):
    """(vae, unet, scheduler, empty prompt) of a saved pipeline; `decoder`: folder of a VAE with a trained f16 decoder."""
    pipeline = Path(pipeline)
    for part in ("vae", "unet", "scheduler", "text_encoder", "tokenizer"):
        if not (pipeline / part).is_dir():
            raise SystemExit(f"no `{part}` in {pipeline}: expected the folder of a saved Stable Diffusion pipeline")
    vae = AutoencoderKL.from_pretrained(pipeline / "vae", local_files_only=True).float()
    unet = UNet2DConditionModel.from_pretrained(pipeline / "unet", local_files_only=True).float()
    scheduler = DDPMScheduler.from_config(DDPMScheduler.load_config(pipeline / "scheduler", local_files_only=True))
    if decoder:
        trained = AutoencoderKL.from_pretrained(decoder, local_files_only=True).float()
        vae.decoder, vae.post_quant_conv = trained.decoder, trained.post_quant_conv
    return vae, unet, scheduler, empty_prompt(pipeline)


def work(decoder_stride, height=180, width=320):
    """Multiply-accumulates of every stage for one LR frame, padded as the element pads it, and parameters, at the size of SD 2.1.

    On PyTorch's meta device: nothing is computed.
    """
    with torch.device("meta"):
        vae, unet, prompt = AutoencoderKL(**SD_VAE).eval(), UNet2DConditionModel(**SD_UNET).eval(), torch.empty(SD_PROMPT)
    modules = stages(vae, unet, DDPMScheduler(prediction_type="v_prediction"), 399, prompt, decoder_stride)
    multiple = 8 * (4 if decoder_stride == 16 else 2)
    height, width = (-(-side // multiple) * multiple for side in (height, width))
    x, macs = torch.empty(1, height, width, 3, dtype=torch.uint8, device="meta"), {}
    for kind, stage in modules.items():
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            x = stage.module(x)
        macs[kind] = counter.get_total_flops() / 2
    return macs, {"vae": vae.num_parameters(), "unet": unet.num_parameters()}


def report(frames=33):
    """Print the f8 pipeline's and the f16 pipeline's work beside the paper's."""
    totals = []
    for stride, paper in ((8, 504.8), (16, 125.7)):
        macs, parameters = work(stride)
        totals.append(sum(macs.values()))
        parts = ", ".join(f"{kind} {value / 1e12:.3f}" for kind, value in macs.items())
        print(f"f{stride}: {totals[-1] * frames / 1e12:.1f} TMACs for {frames} frames ({parts} a frame); the paper's: {paper}")
    print(f"f8 : f16 = {totals[0] / totals[1]:.2f}; the paper's {504.8 / 125.7:.2f}; parameters {parameters}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, dest="command")
    export = commands.add_parser("export", help="a saved pipeline -> a model package")
    export.add_argument("pipeline", help="folder of the pipeline, as diffusers saves it")
    export.add_argument("--timestep", type=int, required=True, help="the one that the UNet was tuned at")
    export.add_argument("--decoder", help="folder of an AutoencoderKL with a trained f16 decoder (default: the f8 one)")
    export.add_argument("--decoder-stride", type=int, choices=[8, 16], default=16, help="8: the symmetric baseline")
    export.add_argument("--license", required=True, help="of the checkpoint, as an SPDX expression")
    export.add_argument("--description", default="One-step x4 video super-resolution at the size of Stable Diffusion")
    export.add_argument("--out", type=Path, required=True, help="package folder; its name is the model's")
    commands.add_parser("work", help="count multiply-accumulates and parameters at the size of Stable Diffusion 2.1")
    args = parser.parse_args()
    if args.command == "work":
        return report()
    about = {"name": args.out.resolve().name, "license": args.license, "description": args.description}
    vae, unet, scheduler, prompt = load(args.pipeline, args.decoder)
    export_package(args.out, about, vae, unet, scheduler, args.timestep, prompt, args.decoder_stride)


if __name__ == "__main__":
    main()
