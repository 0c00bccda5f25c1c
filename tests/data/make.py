#!/usr/bin/env python3
"""Makes the small model packages of the integration tests beside this file: graphs whose output can be said exactly."""

import hashlib
from pathlib import Path

import onnx
from onnx import TensorProto as T
from onnx import helper as h

HERE = Path(__file__).parent
PIXELS = ["T", "H", "W", 3]
STATE = [1, "H", "W", 1]
LATENT = ["T", 1, "H", "W"]

# Levels that the package `counter` adds for every frame since the last reset.
STEP = 10

# Levels by which the package `drifting` makes pixels brighter and darker, at least.
DETAIL = 7

# Rows and columns of the matrices that the package `slow` multiplies.
SIDE = 512


def const(name, values, kind=T.FLOAT):
    dims = [len(values)] if isinstance(values, list) else []
    return h.make_tensor(name, kind, dims, values if dims else [values])


def enlarge(source, scale, target="frames_hr"):
    """Float frames to 8-bit frames, every pixel `scale` times as large."""
    return [
        h.make_node(
            "Resize",
            [source, "", "scales"],
            ["enlarged"],
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        ),
        h.make_node("Clip", ["enlarged", "low", "high"], ["clipped"]),
        h.make_node("Round", ["clipped"], ["rounded"]),
        h.make_node("Cast", ["rounded"], [target], to=T.UINT8),
    ], [const("scales", [1.0, float(scale), float(scale), 1.0]), const("low", 0.0), const("high", 255.0)]


def stage(name, kind, nodes, inputs, outputs, constants, halo=None):
    """Writes the graph of one stage; gives its part of the manifest."""
    graph = h.make_graph(nodes, name, inputs, outputs, constants)
    model = h.make_model(graph, producer_name="fastvsr-tests", opset_imports=[h.make_opsetid("", 17)], ir_version=8)
    if not any(tensor.data_location == T.EXTERNAL for tensor in constants):
        onnx.checker.check_model(model)
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    data = model.SerializeToString(deterministic=True)
    (folder / f"{kind}.onnx").write_bytes(data)
    hash = hashlib.sha256(data).hexdigest()
    halo = "" if halo is None else f"halo = {halo}\n"
    return f'[stages.{kind}]\nfile = "{kind}.onnx"\nsha256 = "{hash}"\n{halo}'


def package(
    name,
    nodes,
    constants,
    scale=4,
    states=(),
    time="",
    geometry="",
    kind=T.UINT8,
    encoder="",
    halo=None,
    axes=STATE,
    channels=1,
):
    """Writes one package with nothing but a decoder, which comes after the stage `encoder` if there is one."""
    latent = h.make_tensor_value_info("latent", T.FLOAT, LATENT)
    inputs = [latent if encoder else h.make_tensor_value_info("frames", kind, PIXELS)]
    outputs = [h.make_tensor_value_info("frames_hr", T.UINT8, ["T", "Hs", "Ws", 3])]
    for state_in, state_out in states:
        inputs.append(h.make_tensor_value_info(state_in, T.FLOAT, axes))
        outputs.append(h.make_tensor_value_info(state_out, T.FLOAT, axes))
    stages = encoder + stage(name, "decoder", nodes, inputs, outputs, constants, halo)
    state = "".join(
        f'\n[[stages.decoder.state]]\ninput = "{i}"\noutput = "{o}"\nchannels = {channels}\nstride = 1\n'
        for i, o in states
    )
    (HERE / name / "model.toml").write_text(
        f"""format = 1
name = "{name}"
version = "1.0.0"
license = "MIT OR Apache-2.0"
description = "for the integration tests"

[geometry]
scale = {scale}
{geometry}
[time]
window = 4
{time}
{stages}{state}"""
    )


def as_float(source="frames", target="pixels"):
    return h.make_node("Cast", [source], [target], to=T.FLOAT)


def nearest(name, scale, kind=T.UINT8):
    nodes, constants = enlarge("pixels", scale)
    package(name, [as_float(), *nodes], constants, scale, kind=kind)


def counter():
    """Brightens every frame by the number of frames before it."""
    nodes, constants = enlarge("brighter", 4)
    package(
        "counter",
        [
            as_float(),
            h.make_node("ReduceMax", ["count"], ["most"], keepdims=0),
            h.make_node("Mul", ["most", "step"], ["offset"]),
            h.make_node("Add", ["pixels", "offset"], ["brighter"]),
            h.make_node("Add", ["count", "one"], ["count_out"]),
            *nodes,
        ],
        [*constants, const("step", float(STEP)), const("one", 1.0)],
        states=[("count", "count_out")],
    )


def drifting():
    """Darkens every frame by a tenth, and adds detail: pixels brighter and darker in turn."""
    nodes, constants = enlarge("darker", 4)
    # In eighths of levels, so that it is not rounded the same way everywhere.
    checks = [(DETAIL + (4 * y + x) // 2 / 8) * (-1.0) ** (x + y) for y in range(4) for x in range(4)]
    detail = [
        h.make_node("Shape", ["frames"], ["size"], start=1, end=3),
        h.make_node("Concat", ["one", "size", "one"], ["repeats"], axis=0),
        h.make_node("Tile", ["checks", "repeats"], ["detail"]),
        h.make_node("Add", ["enlarged", "detail"], ["detailed"]),
    ]
    nodes[1].input[0] = "detailed"
    package(
        "drifting",
        [as_float(), h.make_node("Mul", ["pixels", "drift"], ["darker"]), nodes[0], *detail, *nodes[1:]],
        [
            *constants,
            const("drift", 0.9),
            const("one", [1], T.INT64),
            h.make_tensor("checks", T.FLOAT, [1, 4, 4, 1], checks),
        ],
        geometry="multiple = 16\n",
    )


def neighbours():
    """The mean of every frame and the frames before and after it."""
    nodes, constants = enlarge("mean", 4)
    cuts = [("before", 0, -2), ("now", 1, -1), ("after", 2, 2**31 - 1)]
    package(
        "neighbours",
        [
            as_float(),
            h.make_node("Pad", ["pixels", "pads"], ["padded"], mode="edge"),
            *(h.make_node("Slice", ["padded", f"{n}_from", f"{n}_to", "axis"], [n]) for n, _, _ in cuts),
            h.make_node("Sum", [n for n, _, _ in cuts], ["sum"]),
            h.make_node("Div", ["sum", "three"], ["mean"]),
            *nodes,
        ],
        [
            *constants,
            const("pads", [1, 0, 0, 0, 1, 0, 0, 0], T.INT64),
            const("axis", [0], T.INT64),
            const("three", 3.0),
            *(const(f"{n}_from", [start], T.INT64) for n, start, _ in cuts),
            *(const(f"{n}_to", [end], T.INT64) for n, _, end in cuts),
        ],
        time="look-back = 1\nlook-ahead = 1\n",
    )


def slow():
    """Nothing but larger frames, after a long time: one matrix product for every pixel of a row, in a loop that can be
    interrupted after each. Loading the model stays quick, as it tries a narrow frame."""
    nodes, constants = enlarge("delayed", 4)
    body = h.make_graph(
        [
            h.make_node("MatMul", ["m", "share"], ["product"]),
            h.make_node("Identity", ["go"], ["go_on"]),
        ],
        "product",
        [
            h.make_tensor_value_info("n", T.INT64, []),
            h.make_tensor_value_info("go", T.BOOL, []),
            h.make_tensor_value_info("m", T.FLOAT, [SIDE, SIDE]),
        ],
        [
            h.make_tensor_value_info("go_on", T.BOOL, []),
            h.make_tensor_value_info("product", T.FLOAT, [SIDE, SIDE]),
        ],
    )
    package(
        "slow",
        [
            as_float(),
            h.make_node("Shape", ["frames"], ["width"], start=2, end=3),
            h.make_node("ConstantOfShape", ["side"], ["share"], value=h.make_tensor("", T.FLOAT, [1], [1.0 / SIDE])),
            h.make_node("Loop", ["width", "", "share"], ["result"], body=body),
            h.make_node("ReduceMax", ["result"], ["most"], keepdims=0),
            h.make_node("Mul", ["most", "zero"], ["nothing"]),
            h.make_node("Add", ["pixels", "nothing"], ["delayed"]),
            *nodes,
        ],
        [*constants, const("zero", 0.0), const("side", [SIDE, SIDE], T.INT64)],
    )


def hunger(source, start, most, target="cost"):
    """Asks for more memory than any machine can address if three axes of `source`, from `start` on, hold more than
    `most` cells; `target` is zero."""
    nodes = [
        h.make_node("Shape", [source], ["shape"], start=start, end=start + 3),
        h.make_node("ReduceProd", ["shape"], ["cells"], keepdims=1),
        h.make_node("Greater", ["cells", "most"], ["hungry"]),
        h.make_node("Cast", ["hungry"], ["once"], to=T.INT64),
        h.make_node("Mul", ["once", "petabyte"], ["bytes"]),
        h.make_node("ConstantOfShape", ["bytes"], ["memory"], value=h.make_tensor("", T.UINT8, [1], [0])),
        h.make_node("Shape", ["memory"], ["had"]),
        h.make_node("Cast", ["had"], ["had_float"], to=T.FLOAT),
        h.make_node("Mul", ["had_float", "nothing"], [target]),
    ]
    return nodes, [const("most", [most], T.INT64), const("petabyte", [2**50], T.INT64), const("nothing", [0.0])]


def hungry(name, encoder_most, decoder_most):
    """The grey of every frame, brightened by the number of frames before it, as long as a run of the encoder gets no
    more than so many pixels, of all frames together, and one of the decoder no more than so many."""
    costs, constants = hunger("frames", 0, encoder_most)
    encoder = stage(
        name,
        "encoder",
        [
            as_float(),
            h.make_node("ReduceMean", ["pixels"], ["grey"], axes=[3]),
            h.make_node("Transpose", ["grey"], ["planes"], perm=[0, 3, 1, 2]),
            *costs,
            h.make_node("Add", ["planes", "cost"], ["latent"]),
        ],
        [h.make_tensor_value_info("frames", T.UINT8, PIXELS)],
        [h.make_tensor_value_info("latent", T.FLOAT, LATENT)],
        constants,
        halo=0,
    )
    nodes, enlarging = enlarge("brighter", 4)
    costs, constants = hunger("latent", 1, decoder_most)
    package(
        name,
        [
            h.make_node("Transpose", ["latent"], ["grey"], perm=[0, 2, 3, 1]),
            h.make_node("Concat", ["grey", "grey", "grey"], ["pixels"], axis=3),
            *costs,
            h.make_node("ReduceMax", ["count"], ["most_counted"], keepdims=0),
            h.make_node("Mul", ["most_counted", "step"], ["offset"]),
            h.make_node("Sum", ["pixels", "offset", "cost"], ["brighter"]),
            h.make_node("Add", ["count", "one"], ["count_out"]),
            *nodes,
        ],
        [*enlarging, *constants, const("step", float(STEP)), const("one", 1.0)],
        states=[("count", "count_out")],
        encoder=encoder,
        halo=0,
    )


def picky(name, states=()):
    """Runs on frames 16 pixels wide, fails on others."""
    nodes, constants = enlarge("same", 4)
    row = h.make_tensor("row", T.FLOAT, [1, 1, 16, 1], [0.0] * 16)
    memory = [h.make_node("Identity", [i], [o]) for i, o in states]
    nodes = [as_float(), h.make_node("Add", ["pixels", "row"], ["same"]), *memory, *nodes]
    package(name, nodes, [*constants, row], states=states)


def planes():
    """A state whose channels come first."""
    nodes, constants = enlarge("pixels", 4)
    same = h.make_node("Identity", ["state"], ["state_out"])
    package("planes", [as_float(), same, *nodes], constants, states=[("state", "state_out")], axes=[1, 1, "H", "W"])


def growing():
    """A state that is twice as wide after every frame."""
    nodes, constants = enlarge("pixels", 4)
    growth = h.make_node("Concat", ["state", "state"], ["state_out"], axis=2)
    package("growing", [as_float(), growth, *nodes], constants, states=[("state", "state_out")])


def endless():
    """Never ends, not even on the frame that shows whether the model runs, but can be interrupted."""
    nodes, constants = enlarge("delayed", 4)
    body = h.make_graph(
        [h.make_node("Identity", ["m"], ["same"]), h.make_node("Identity", ["go"], ["go_on"])],
        "nothing",
        [
            h.make_tensor_value_info("n", T.INT64, []),
            h.make_tensor_value_info("go", T.BOOL, []),
            h.make_tensor_value_info("m", T.FLOAT, PIXELS),
        ],
        [h.make_tensor_value_info("go_on", T.BOOL, []), h.make_tensor_value_info("same", T.FLOAT, PIXELS)],
    )
    loop = h.make_node("Loop", ["for_ever", "", "pixels"], ["delayed"], body=body)
    package("endless", [as_float(), loop, *nodes], [*constants, const("for_ever", 2**62, T.INT64)])


def boundless():
    """A state of as many channels as a manifest allows, for every pixel: more than any machine has."""
    nodes, constants = enlarge("pixels", 4)
    same = h.make_node("Identity", ["state"], ["state_out"])
    axes = [1, "H", "W", 65536]
    package(
        "boundless",
        [as_float(), same, *nodes],
        constants,
        states=[("state", "state_out")],
        axes=axes,
        channels=65536,
    )


def unlisted():
    """Its one weight lies in a file that the manifest does not list."""
    nodes, constants = enlarge("brighter", 4)
    weight = T(name="weight", data_type=T.FLOAT, dims=[1], data_location=T.EXTERNAL)
    weight.external_data.add(key="location", value="weight.bin")
    add = h.make_node("Add", ["pixels", "weight"], ["brighter"])
    package("unlisted", [as_float(), add, *nodes], [*constants, weight])


def enlarged(source, scale, target="made"):
    """Every pixel of planes `scale` times as large."""
    resize = h.make_node(
        "Resize",
        [source, "", "scales"],
        [target],
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    return [resize], [const("scales", [1.0, 1.0, float(scale), float(scale)])]


def plain(name, nodes, constants, axes=(1, 3, "H", "W"), made=(1, 3, "Hs", "Ws"), kind=T.FLOAT, more=(), outputs=None):
    """Writes a network as others export theirs: floats in planes, from `input` to `output`."""
    inputs = [h.make_tensor_value_info("input", kind, axes), *more]
    outputs = outputs or [h.make_tensor_value_info("output", kind, made)]
    graph = h.make_graph(nodes, name, inputs, outputs, constants)
    model = h.make_model(graph, producer_name="fastvsr-tests", opset_imports=[h.make_opsetid("", 17)], ir_version=8)
    if not any(tensor.data_location == T.EXTERNAL for tensor in constants):
        onnx.checker.check_model(model)
    folder = HERE / "plain"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.onnx").write_bytes(model.SerializeToString(deterministic=True))


def blurred(name, source="input", **arguments):
    """Twice as large, each pixel the mean of 5x5, outside of the frame black: it sees two pixels far."""
    weights = h.make_tensor("weights", T.FLOAT, [3, 1, 5, 5], [1 / 25] * 75)
    blur = h.make_node("Conv", [source, "weights"], ["blurred"], group=3, pads=[2, 2, 2, 2])
    nodes, constants = enlarged("blurred", 2, "output")
    plain(name, [blur, *nodes], [*constants, weights], **arguments)


def blocks(name, side, pads=False):
    """Each block of `side` pixels gets its mean, as windows see no farther than their edges; with `pads` for frames of
    any size, which are filled up to whole blocks."""
    mean = h.make_node(
        "AveragePool", ["input"], ["means"], kernel_shape=[side, side], strides=[side, side], ceil_mode=int(pads)
    )
    nodes, constants = enlarged("means", side, "large" if pads else "output")
    if pads:
        nodes += [
            h.make_node("Shape", ["input"], ["size"], start=2),
            h.make_node("Slice", ["large", "from", "size", "axes"], ["output"]),
        ]
        constants += [const("from", [0, 0], T.INT64), const("axes", [2, 3], T.INT64)]
    else:
        # Blocks have no remainder: a frame that has one is an error.
        parts = h.make_node("SpaceToDepth", ["input"], ["parts"], blocksize=side)
        nodes = [parts, h.make_node("DepthToSpace", ["parts"], ["whole"], blocksize=side), mean, *nodes]
        mean.input[0] = "whole"
        plain(name, nodes, constants)
        return
    plain(name, [mean, *nodes], constants)


def mixed(name, weights, axes):
    """Twice as large, a mean of frames by their weights."""
    count = len(weights)
    first = (
        [h.make_node("Squeeze", ["input", "zero"], ["frames"])]
        if len(axes) == 5
        else [
            h.make_node("Shape", ["input"], ["rest"], start=2),
            h.make_node("Concat", ["start", "rest"], ["parted"], axis=0),
            h.make_node("Reshape", ["input", "parted"], ["frames"]),
        ]
    )
    nodes, constants = enlarged("mean", 2, "output")
    plain(
        name,
        [
            *first,
            h.make_node("Mul", ["frames", "weights"], ["weighted"]),
            h.make_node("ReduceSum", ["weighted", "zero"], ["mean"], keepdims=1),
            *nodes,
        ],
        [
            *constants,
            *([] if len(axes) == 5 else [const("start", [count, 3], T.INT64)]),
            const("zero", [0], T.INT64),
            h.make_tensor("weights", T.FLOAT, [count, 1, 1, 1], weights),
        ],
        axes,
    )


def plain_networks():
    for scale in (2, 3, 4, 8):
        plain(f"x{scale}", *enlarged("input", scale, "output"))
    plain("x1", [h.make_node("Sub", ["one", "input"], ["output"])], [const("one", 1.0)])
    plain("halves", *enlarged("input", 2, "output"), kind=T.FLOAT16)
    nodes, constants = enlarged("brighter", 2, "output")
    plain("levels", [h.make_node("Add", ["input", "ten"], ["brighter"]), *nodes], [*constants, const("ten", 10.0)])
    blurred("blur")
    blurred("blur-32x32", axes=[1, 3, 32, 32], made=[1, 3, 64, 64])
    blurred("blur-40x24", axes=["batch", 3, 24, 40], made=["batch", 3, 48, 80])
    blocks("blocks-3", 3)
    blocks("blocks-4", 4)
    blocks("windows", 8, pads=True)
    # Reflects twelve pixels, which a smaller frame does not have, and cuts them off again.
    pad = h.make_node("Pad", ["input", "pads"], ["padded"], mode="reflect")
    cut = h.make_node("Slice", ["padded", "from", "to", "axes"], ["cut"])
    nodes, constants = enlarged("cut", 2, "output")
    ints = {"pads": [0, 0, 12, 12, 0, 0, 12, 12], "from": [12, 12], "to": [-12, -12], "axes": [2, 3]}
    plain("reflecting", [pad, cut, *nodes], [*constants, *(const(n, v, T.INT64) for n, v in ints.items())])
    # The whole frame's mean in every pixel.
    nodes, constants = enlarged("mixed", 2, "output")
    mean = h.make_node("ReduceMean", ["input"], ["mean"], axes=[2, 3])
    half = [h.make_node("Add", ["input", "mean"], ["sum"]), h.make_node("Mul", ["sum", "half"], ["mixed"])]
    plain("global", [mean, *half, *nodes], [*constants, const("half", 0.5)])

    mixed("frames-3", [0.25, 0.5, 0.25], [1, 3, 3, "H", "W"])
    mixed("frames-5", [0.125, 0.125, 0.5, 0.125, 0.125], [1, 5, 3, "H", "W"])
    mixed("channels-9", [0.25, 0.5, 0.25], [1, 9, "H", "W"])
    mixed("channels-15", [0.125, 0.125, 0.5, 0.125, 0.125], [1, 15, "H", "W"])
    mixed("causal", [0.125, 0.25, 0.625], [1, 3, 3, "H", "W"])
    mixed("even", [1 / 3, 1 / 3, 1 / 3], [1, 3, 3, "H", "W"])

    # Takes any number of frames, and gives their mean.
    mean = h.make_node("ReduceMean", ["input"], ["mean"], axes=[1], keepdims=0)
    nodes, constants = enlarged("mean", 2, "output")
    plain("any-number", [mean, *nodes], constants, axes=[1, "T", 3, "H", "W"])
    # Its one weight, a half, lies in a file beside it.
    weight = T(name="weight", data_type=T.FLOAT, dims=[1], data_location=T.EXTERNAL)
    weight.external_data.add(key="location", value="external.onnx.data")
    plain("external", [h.make_node("Mul", ["input", "weight"], ["output"])], [weight])
    (HERE / "plain/external.onnx.data").write_bytes(bytes([0, 0, 0, 0x3F]))

    same = h.make_node("Identity", ["input"], ["output"])
    planes = [1, 3, "H", "W"]
    extra = h.make_tensor_value_info("strength", T.FLOAT, [1])
    plain("two-inputs", [h.make_node("Mul", ["input", "strength"], ["output"])], [], more=[extra])
    sequence = h.make_tensor_sequence_value_info("output", T.FLOAT, None)
    plain("sequence", [h.make_node("SequenceConstruct", ["input"], ["output"])], [], outputs=[sequence])
    plain("grey", [same], [], axes=[1, 1, "H", "W"], made=[1, 1, "H", "W"])
    plain("last", [same], [], axes=[1, "H", "W", 3], made=[1, "H", "W", 3])
    plain("bytes", [same], [], made=planes, kind=T.UINT8)
    sizes = h.make_node("Resize", ["input", "", "", "sizes"], ["output"], mode="nearest")
    plain("one-size", [sizes], [const("sizes", [1, 3, 64, 64], T.INT64)])
    fewer = h.make_node("ReduceMean", ["input"], ["output"], axes=[1])
    plain("one-channel", [fewer], [], made=[1, 1, "H", "W"])


if __name__ == "__main__":
    plain_networks()
    nearest("nearest", 4)
    nearest("twice", 2)
    nearest("floats", 4, kind=T.FLOAT)
    counter()
    drifting()
    neighbours()
    slow()
    growing()
    planes()
    endless()
    boundless()
    unlisted()
    hungry("hungry", 4096, 2048)
    hungry("starving", 4096, 512)
    picky("picky")
    picky("picky-memory", [("memory", "memory_out")])
