"""Adopt: a PyTorch checkpoint of a network that makes single images larger or better -> a model package. Needs `models[adopt]`.

    python -m fastvsr_models.adopt 4x-foo.pth --license CC-BY-4.0 --out 4x-foo

spandrel recognises the architecture by the names and shapes of the weights (ESRGAN, Compact, SPAN, RealPLKSR, DAT, HAT, SwinIR
and some thirty more). The package has one stage, a decoder, on 8-bit frames. It is checked against PyTorch before the folder
appears; how far the network sees and what memory it takes are measured.
"""

import argparse
import pickle
import tempfile
import warnings
from pathlib import Path

import numpy as np
import safetensors.torch
import spandrel
import torch
from torch import nn

from .footprint import aligned, halo, memory, sample
from .package import Stage, to_frames, to_nchw, write_package
from .upscalers import Package

SCALES = range(1, 17)  # as a manifest may have; 1 is restoration in place

# The picture may differ from PyTorch's by so many levels: at most, and on average. Weights in half precision move it more.
LIMITS = {"single": (2, 0.05), "half": (16, 0.5)}


class Graph(nn.Module):
    """frames uint8 [T, H, W, 3] -> frames_hr uint8 [T, scale H, scale W, 3]."""

    def __init__(self, network):
        super().__init__()
        # Some architectures return more than the picture, or want another range; spandrel's descriptor knows which.
        self.model, self.call = network.model, network._call_fn

    def levels(self, frames):
        return 255 * self.call(self.model, to_nchw(frames) / 255)

    def forward(self, frames):
        return to_frames(self.levels(frames) + 0.5)


def load(path):
    """The network of a checkpoint, as spandrel's descriptor. Code in the file is never run: weights alone are read."""
    if not path.is_file():
        raise SystemExit(f"{path}: expected a checkpoint, got {'a folder' if path.is_dir() else 'no such file'}")
    try:
        if path.suffix == ".safetensors":
            weights = safetensors.torch.load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
        weights = spandrel.canonicalize_state_dict(weights)
        names = [str(name) for name in weights]
    except (pickle.UnpicklingError, RuntimeError, EOFError, AttributeError, TypeError, safetensors.SafetensorError) as err:
        raise SystemExit(
            f"{path}: expected a PyTorch checkpoint with weights alone (.pth, .pt, .ckpt, .safetensors), got another file, or "
            "objects that only code can load; of such a network save the weights: torch.save(network.state_dict(), FILE)"
        ) from err
    try:
        return spandrel.ModelLoader().load_from_state_dict(weights)
    except spandrel.UnsupportedModelError as err:
        raise SystemExit(
            f"{path}: expected an architecture that spandrel {spandrel.__version__} knows, got weights named "
            f"{', '.join(names[:3])}, ...; export the network to ONNX with the code that it comes from"
        ) from err
    except Exception as err:  # by the architecture's own code, which has met weights that it did not expect
        raise SystemExit(f"{path}: expected the weights of an architecture that they look like, got: {err}") from err


def check(path, network):
    """Refuse what a package cannot be."""
    kind, channels = network.architecture.name, (network.input_channels, network.output_channels)
    if (
        not isinstance(network, spandrel.ImageModelDescriptor)
        or network.purpose not in ("SR", "Restoration")
        or network.scale not in SCALES
    ):
        raise SystemExit(
            f"{path}: expected a single-image network for super-resolution or restoration, of scale {SCALES[0]} to {SCALES[-1]}, "
            f"got {kind} for {network.purpose}, of scale {network.scale}"
        )
    if channels != (3, 3):
        raise SystemExit(f"{path}: expected 3 channels (RGB) in and out, got {kind} with {channels[0]} in and {channels[1]} out")
    if network.size_requirements.square:
        raise SystemExit(f"{path}: expected a network for frames of any shape, got {kind}, which wants square ones")


def differences(folder, graph, multiple):
    """(largest, mean) difference of the package's picture from PyTorch's in levels, without rounding's.

    In other sizes than the example's, as constants in the graph would fit that one.
    """
    upscale, apart = Package(folder, window=2), []
    for count, height, width in ((1, 48, 80), (2, 64, 32)):
        frames = sample(count, aligned(height, multiple), aligned(width, multiple))
        with torch.no_grad():
            levels = graph.levels(torch.from_numpy(frames)).clamp(0, 255).permute(0, 2, 3, 1).numpy()
        apart.append(np.maximum(np.abs(upscale(frames) - levels) - 0.5, 0).ravel())
    apart = np.concatenate(apart)
    return apart.max(), apart.mean()


def export(folder, about, network, precision):
    """Write the package into `folder` and print how near it is to PyTorch; an error if that is not near enough.

    PyTorch's older exporter is tried first: it is fast, and what it writes is plain. The newer one goes on where an architecture
    has steps that the older one does not know, or makes constants of (DySample).
    """
    size, limits = network.size_requirements, LIMITS[precision]
    multiple = max(size.multiple_of, size.minimum)
    graph = Graph(network).eval().requires_grad_(False)
    large = sum(p.numel() * p.element_size() for p in graph.parameters()) > 1 << 30
    geometry, stages = {"scale": network.scale, "multiple": multiple}, {"decoder": Stage(graph, ("frames",))}
    example = aligned(32, multiple), aligned(48, multiple)
    for dynamo in (False, True):
        try:
            write_package(folder, about, geometry, 1, stages, precision == "half", large, dynamo, example)
            largest, mean = differences(folder, graph, multiple)
        except Exception as err:  # of exporter, checker or runtime
            failure = str(err).strip().partition("\n")[0]
            continue
        if largest <= limits[0] and mean <= limits[1]:
            print(f"The picture differs from PyTorch's by {largest:.3f} of a level at most, {mean:.5f} on average.")
            return multiple
        failure = f"the picture differs from PyTorch's by {largest:.1f} levels at most, {mean:.2f} on average; expected {limits}"
    raise SystemExit(f"{network.architecture.name} could not be exported to ONNX: {failure}")


def add_footprint(folder, multiple):
    """Measure halo and memory and write them into the manifest, unless the network sees the whole frame."""
    reach = halo(folder)
    if reach is None:
        return print("It sees the whole frame, or nearly: no tiles, so `max-memory` will be refused.")
    taken, manifest = memory(folder, multiple), folder / "model.toml"
    text = manifest.read_text().replace("[geometry]\n", f"[geometry]\nmemory = {taken}\n")
    manifest.write_text(text.replace("[stages.decoder]\n", f"[stages.decoder]\nhalo = {reach}\n"))
    print(f"It sees {reach} pixels far and takes {taken} bytes per pixel of the input.")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help=".pth, .pt, .ckpt or .safetensors")
    parser.add_argument("--out", type=Path, required=True, help="package folder, a new one; its name is the model's")
    parser.add_argument("--license", help="of the checkpoint, as an SPDX expression")
    parser.add_argument("--description", help="one line for people")
    parser.add_argument("--half", action="store_true", help="store weights in half precision: a file of half the size")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # of exporters, about what `differences` sees
    if not args.license:
        raise SystemExit(
            "--license: expected the licence of the checkpoint, as an SPDX expression (Apache-2.0, CC-BY-NC-SA-4.0, ...), "
            "got none; the page that it was downloaded from tells"
        )
    if args.out.exists():
        raise SystemExit(f"--out: expected a new folder, got {args.out}, which exists; remove it, or name another one")
    network = load(args.checkpoint)
    check(args.checkpoint, network)
    kind = " ".join([network.architecture.name, *network.tags])
    print(f"{args.checkpoint}: {kind}, {network.scale} times")
    about = {"name": args.out.resolve().name, "license": args.license}
    about["description"] = args.description or f"{kind}, from {args.checkpoint.name}"
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.out.parent) as work:
        folder = Path(work, "package")
        add_footprint(folder, export(folder, about, network, "half" if args.half else "single"))
        folder.rename(args.out)
    print(f"Done: fastvsr model={args.out}")


if __name__ == "__main__":
    main()
