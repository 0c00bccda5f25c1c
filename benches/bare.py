"""Bare graphs for the benchmark, with the element's session options and without the element."""

import json
import statistics
import time
import tomllib

import numpy as np
import onnx
import onnxruntime as ort
from runs import has_bf16

WARM_UP = 2  # calls that do not count


def has_openvino():
    return "OpenVINOExecutionProvider" in ort.get_available_providers()


def session(graph, provider, precision=None, axes=None):
    """A session as the element makes it, OpenVINO in bf16 where the CPU has it. `axes`: lengths of free ones."""
    options = ort.SessionOptions()
    for name, length in (axes or {}).items():
        options.add_free_dimension_override_by_name(name, length)
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = ["CPUExecutionProvider"]
    if provider == "openvino":
        hint = precision or ("bf16" if has_bf16() else "f32")
        config = json.dumps({"CPU": {"INFERENCE_PRECISION_HINT": hint}})
        providers.insert(0, ("OpenVINOExecutionProvider", {"device_type": "CPU", "load_config": config}))
    return ort.InferenceSession(graph, options, providers=providers)


def seconds(step, count):
    """Median time of a call."""
    times = []
    for _ in range(WARM_UP + count):
        begin = time.perf_counter()
        step()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[WARM_UP:])


class Bare:
    """A package's graphs, chained as the element chains them, frame by frame; for one size where that is faster."""

    def __init__(self, package, provider, width, height):
        manifest = tomllib.loads((package / "model.toml").read_text())
        height, width = (padded(side, manifest) for side in (height, width))
        self.stages, self.frame = [], np.full((1, height, width, 3), 90, np.uint8)
        self.values = {"frames": self.frame}
        for stage in manifest["stages"].values():
            states = stage.get("state", [])
            carried = {
                s["input"]: np.zeros((1, height // s["stride"], width // s["stride"], s["channels"]), np.float32)
                for s in states
            }
            path = package / stage["file"]
            run = session(path, provider, axes=lengths(path, self.values | carried) if provider == "openvino" else None)
            self.stages.append((run, [i.name for i in run.get_inputs()], states, carried))
            self.advance(self.stages[-1])

    def step(self):
        """All stages on one frame."""
        self.values = {"frames": self.frame}
        for stage in self.stages:
            self.advance(stage)

    def decode(self):
        """The last stage again, on what the others made before."""
        self.advance(self.stages[-1])

    def advance(self, stage):
        run, inputs, states, carried = stage
        self.values |= carried
        outputs = run.run(None, {name: self.values[name] for name in inputs})
        self.values |= dict(zip([o.name for o in run.get_outputs()], outputs, strict=True))
        carried |= {s["input"]: self.values[s["output"]] for s in states}


def lengths(graph, values):
    """The free axes of a graph's inputs, and how long they are in `values`."""
    inputs = onnx.load(graph, load_external_data=False).graph.input
    named = (
        (dim.dim_param, length) for i in inputs for dim, length in zip(axes_of(i), values[i.name].shape, strict=True)
    )
    return {name: length for name, length in named if name}


def axes_of(value):
    return value.type.tensor_type.shape.dim


def padded(side, manifest):
    multiple = manifest["geometry"]["multiple"]
    return -(-side // multiple) * multiple
