"""What a fastvsr element counts, for Prometheus: the property `stats`, read whenever somebody asks.

rtsp_server.py and webrtc_server.py import examples/metrics.py. Needs Debian's python3-prometheus-client.
"""

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

COUNTERS = {
    "frames-in": "Frames that came in",
    "frames-out": "Frames that were given out",
    "resized": "Frames among them that were resized without the model, for want of time",
    "overloads": "Times that there was no time for the model",
    "windows": "Windows of frames begun",
    "scene-cuts": "Scene cuts found",
    "steps-down": "Times that the device ran out of memory and smaller tiles had to do",
}
STAGES = ("encoder", "unet", "decoder", "convert")
ABOUT = ("model", "provider", "precision")


class Metrics:
    """Collects from the element that `element()` gives, or nothing while there is none."""

    def __init__(self, element):
        self.element = element

    def collect(self):
        """The families of one scrape."""
        if not (element := self.element()):
            return
        value = element.props.stats.get_value
        for name, text in COUNTERS.items():
            yield CounterMetricFamily("fastvsr_" + name.replace("-", "_"), text, value(name))
        stages = GaugeMetricFamily("fastvsr_stage_seconds", "Mean time that a frame took", labels=["stage"])
        for stage in STAGES:
            stages.add_metric([stage], value(f"{stage}-ms") / 1e3)
        yield stages
        yield GaugeMetricFamily("fastvsr_frames_per_second", "Frames a second while it works", value("fps"))
        yield GaugeMetricFamily("fastvsr_tile", "Side of the tiles in input pixels, 0 for whole frames", value("tile"))
        about = {name: value(name) or "" for name in ABOUT}
        yield InfoMetricFamily("fastvsr", "What upscales", about)


def registry(element):
    """For `generate_latest` and `start_http_server`."""
    registry = CollectorRegistry()
    registry.register(Metrics(element))
    return registry
