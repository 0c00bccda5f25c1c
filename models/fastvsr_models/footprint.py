"""How far the network of a package sees and what memory it takes, measured, so that `max-memory` can cut frames into tiles.

For packages with a decoder alone and without state, whose layers nobody has counted.
"""

import subprocess
import sys

import numpy as np
import onnx

from .upscalers import Package

# How far from its cut edge, in LR pixels, a part of a frame is compared with the whole one.
STRIP = 256

# Statistics over the frame, and attention, which sees it or windows on a grid: what is measured on a few frames may hide it.
WHOLE = {"GlobalAveragePool", "GlobalMaxPool", "GroupNormalization", "InstanceNormalization", "Softmax"}

# A halo of up to so many LR pixels is to give the same 8-bit pixels; a larger one, of a deep network, which sees ever farther and
# ever less, the same but for one level. What sees farther than the last sees the whole frame, or nearly.
HALOS = ((0, 64), (1, STRIP * 3 // 4))


def aligned(side, multiple):
    """The next multiple."""
    return -(-side // multiple) * multiple


def sample(count, height, width, seed=0):
    """Frames with shades, edges and noise, uint8 [T, H, W, 3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    shades = np.stack([127 + 100 * np.sin(x / 9 + c) * np.cos(y / 7 + c) for c in range(3)], -1)
    edges = np.where((x // 12 + y // 12) % 2, 255, 0)[..., None]
    noise = rng.integers(0, 256, (count, height, width, 3))
    return (0.5 * shades + 0.2 * edges + 0.3 * noise).astype(np.uint8)


def sees_everything(graph):
    """Whether a step is of those in `WHOLE`, or a mean or sum over more than one axis: the channels'."""
    sizes = {tensor.name: np.prod(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        axes = [len(a.ints) for a in node.attribute if a.name == "axes"] + [sizes.get(name, 0) for name in node.input[1:]]
        if node.op_type in WHOLE or (node.op_type.startswith("Reduce") and sum(axes) != 1):
            return True
    return False


def halo(folder):
    """How far from a cut edge, in LR pixels, the picture of a part is not the whole frame's; None if everywhere, or nearly.

    The cut is at an odd multiple, so that what lies on a grid comes to lie elsewhere.
    """
    if sees_everything(onnx.load(folder / "decoder.onnx", load_external_data=False).graph):
        return None
    upscale = Package(folder)
    scale, multiple = upscale.manifest["geometry"]["scale"], upscale.manifest["geometry"]["multiple"]
    across, length, cut = aligned(32, multiple), aligned(STRIP, multiple), multiple * (STRIP // 4 // multiple | 1)
    apart = np.zeros(scale * length, int)
    for seed in range(2):
        frame = sample(1, across, cut + length, seed)
        frame[:, :, :cut] = 255 * (frame[:, :, :cut] > 160 - 64 * seed)
        for axes in ((0, 1, 2, 3), (0, 2, 1, 3)):  # cut on the left, and at the top
            whole, part = (upscale(f.transpose(axes)).transpose(axes).astype(int) for f in (frame, frame[:, :, cut:]))
            apart = np.maximum(apart, np.abs(whole[:, :, scale * cut :] - part).max((0, 1, 3)))
    for levels, most in HALOS:
        far = max([0, *(np.flatnonzero(apart > levels) // scale + 1)])
        if far <= most:
            return aligned(int(far), multiple)
    return None


# A process of its own, as others grow besides. The kernel's own peak could not be reset: containers may not write to /proc.
RUN = """if True:
    import sys, threading, numpy
    from fastvsr_models.upscalers import Package
    upscale, side = Package(sys.argv[1]), int(sys.argv[2])
    frame = numpy.zeros((1, side, side, 3), numpy.uint8)
    def kilobytes(): return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmRSS"))
    before = peak = kilobytes()
    run = threading.Thread(target=upscale, args=(frame,))
    run.start()
    while run.is_alive():
        peak = max(peak, kilobytes())
        run.join(0.001)
    print(max(peak, kilobytes()) - before)"""


def memory(folder, multiple):
    """Bytes per LR pixel at the peak of a run with the CPU provider, over what the process holds before it."""
    side = aligned(160, multiple)
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", RUN, folder, str(side)], check=True, stdout=subprocess.PIPE)
    return -(-int(run.stdout) * 1024 // side**2)
