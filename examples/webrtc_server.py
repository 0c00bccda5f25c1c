"""A page that shows a video upscaled, in any browser and for as many viewers as come: WebRTC, with WHEP for signalling.

    python3 examples/webrtc_server.py examples/demo/clip.mp4    # a file or a URI
    python3 examples/webrtc_server.py test                      # a moving test picture, live

Open http://127.0.0.1:8080, or give that address to a player that speaks WHEP: it posts its offer and gets the answer.
Viewers share the decoder, fastvsr and the encoder, and come and go while these run. There is no STUN or TURN server
here: a viewer must reach this machine. /metrics has numbers for Prometheus. Needs Debian's python3-gi,
gir1.2-gst-plugins-bad-1.0, gstreamer1.0-nice and python3-prometheus-client.
"""

import argparse
import itertools
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import gi
import metrics
import prometheus_client

gi.require_version("Gst", "1.0")
gi.require_version("GstSdp", "1.0")
gi.require_version("GstWebRTC", "1.0")
from gi.repository import Gst, GstSdp, GstWebRTC  # noqa: E402

PAGE = b"""<!doctype html>
<title>fastvsr</title>
<link rel="icon" href="data:,">
<video autoplay muted playsinline controls style="width: 100%"></video>
<script type="module">
  const peer = new RTCPeerConnection();
  peer.ontrack = ({streams}) => document.querySelector("video").srcObject = streams[0];
  peer.addTransceiver("video", {direction: "recvonly"});
  await peer.setLocalDescription();
  const headers = {"Content-Type": "application/sdp"};
  const answer = await fetch("/", {method: "POST", headers, body: peer.localDescription.sdp});
  const text = await answer.text();
  if (!answer.ok) throw new Error(text);
  await peer.setRemoteDescription({type: "answer", sdp: text});
  addEventListener("pagehide", () => fetch(answer.headers.get("Location"), {method: "DELETE", keepalive: true}));
</script>
"""

TEST = "videotestsrc is-live=true pattern=ball ! video/x-raw,width=160,height=90,framerate=15/1"

# clocksync gives a file the pace of a camera. Behind it the queue lets frames go when the machine is too slow.
UPSCALE = (
    "videoconvert ! clocksync ! queue leaky=downstream max-size-buffers=2 ! fastvsr window=1 name=upscaler "
    "! videoconvert ! queue max-size-buffers=2 ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=30 "
    "! video/x-h264,profile=constrained-baseline ! tee name=viewers allow-not-linked=true"
)

# What a viewer gets. While it connects nothing is taken from its queue, which must not hold up the others.
VIEWER = (
    "queue leaky=downstream max-size-time=500000000 ! rtph264pay pt={0} config-interval=-1 aggregate-mode=zero-latency "
    "! application/x-rtp,media=video,encoding-name=H264,payload={0},clock-rate=90000 ! webrtcbin name=peer"
)

GATHERING_SECONDS = 10


def source(name):
    """The elements that give raw video from what the user named."""
    if name == "test":
        return TEST
    uri = name if Gst.uri_is_valid(name) else Path(name).resolve(strict=True).as_uri()
    return f'uridecodebin uri="{uri}"'


def payload_type(offer):
    """The number that the offer gives to H.264 as rtph264pay sends it: baseline, in fragments."""
    for number in re.findall(r"^a=rtpmap:(\d+) H264/90000", offer, re.MULTILINE):
        parameters = re.search(rf"^a=fmtp:{number} (.*)$", offer, re.MULTILINE)
        if parameters and "packetization-mode=1" in parameters[1] and "profile-level-id=42" in parameters[1]:
            return number
    raise ValueError("expected an SDP offer with H.264 video of packetization-mode=1 and a baseline profile-level-id")


def ask(peer, action, argument):
    """Emits an action signal of webrtcbin and waits: the reply, which what is read from it does not outlive."""
    promise = Gst.Promise.new()
    peer.emit(action, argument, promise)
    promise.wait()
    reply = promise.get_reply()
    if reply and reply.has_field("error"):
        raise ValueError(reply.get_value("error").message)
    return reply


class Viewers:
    """Who is watching: a branch of the pipeline for each."""

    def __init__(self, pipeline):
        self.pipeline, self.tee = pipeline, pipeline.get_by_name("viewers")
        self.numbers, self.branches = itertools.count(1), {}

    def join(self, offer):
        """Number of the new viewer, and the answer to its SDP offer with all candidates in it."""
        branch = Gst.parse_bin_from_description(VIEWER.format(payload_type(offer)), True)
        number, peer = str(next(self.numbers)), branch.get_by_name("peer")
        gathered = threading.Event()
        complete = GstWebRTC.WebRTCICEGatheringState.COMPLETE
        peer.connect(
            "notify::ice-gathering-state", lambda peer, _: peer.props.ice_gathering_state == complete and gathered.set()
        )
        peer.connect("notify::connection-state", self.on_connection_state, number)
        self.pipeline.add(branch)
        self.branches[number] = branch
        branch.sync_state_with_parent()
        try:
            kind, (result, message) = GstWebRTC.WebRTCSDPType.OFFER, GstSdp.SDPMessage.new_from_text(offer)
            if result != GstSdp.SDPResult.OK:
                raise ValueError("expected an SDP offer")
            ask(peer, "set-remote-description", GstWebRTC.WebRTCSessionDescription.new(kind, message))
            created = ask(peer, "create-answer", None)
            ask(peer, "set-local-description", created.get_value("answer"))
            if not gathered.wait(GATHERING_SECONDS):
                raise ValueError("no address of this machine was found")
        except ValueError:
            self.leave(number)
            raise
        self.tee.request_pad_simple("src_%u").link(branch.get_static_pad("sink"))
        return number, peer.props.local_description.sdp.as_text()

    def leave(self, number):
        """Whether there was such a viewer."""
        branch = self.branches.pop(number, None)
        if branch is None:
            return False
        pad = branch.get_static_pad("sink").get_peer()

        def between_buffers(*_):
            self.tee.release_request_pad(pad)
            # Not here: a thread of the branch cannot wait for its own end.
            threading.Thread(target=remove).start()
            return Gst.PadProbeReturn.REMOVE

        def remove():
            branch.set_state(Gst.State.NULL)
            self.pipeline.remove(branch)

        if pad:
            pad.add_probe(Gst.PadProbeType.IDLE, between_buffers)
        else:
            remove()
        return True

    def on_connection_state(self, peer, _, number):
        state = GstWebRTC.WebRTCPeerConnectionState
        if peer.props.connection_state in (state.FAILED, state.CLOSED):
            threading.Thread(target=self.leave, args=[number]).start()


class Handler(BaseHTTPRequestHandler):
    """GET gives the page; POST and DELETE are WHEP's (draft-ietf-wish-whep)."""

    def reply(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", len(body))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/":
            self.reply(200, PAGE, Content_Type="text/html; charset=utf-8")
        elif self.path == "/metrics":
            text = prometheus_client.generate_latest(self.server.metrics)
            self.reply(200, text, Content_Type=prometheus_client.CONTENT_TYPE_LATEST)
        else:
            self.reply(404)

    def do_POST(self):
        offer = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode(errors="replace")
        try:
            number, answer = self.server.viewers.join(offer)
        except ValueError as error:
            self.reply(400, f"{error}\n".encode(), Content_Type="text/plain")
        else:
            self.reply(201, answer.encode(), Content_Type="application/sdp", Location=f"/{number}")

    def do_DELETE(self):
        self.reply(200 if self.server.viewers.leave(self.path[1:]) else 404)

    def log_message(self, *_):
        pass


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("source", help="a URI, a file, or `test`")
parser.add_argument("--port", type=int, default=8080)
args = parser.parse_args()
Gst.init(None)
if not Gst.ElementFactory.find("nicesink"):
    parser.error("webrtcbin needs libnice's elements: apt install gstreamer1.0-nice")

pipeline = Gst.parse_launch(f"{source(args.source)} ! {UPSCALE}")
server = ThreadingHTTPServer(("", args.port), Handler)
server.daemon_threads, server.viewers = True, Viewers(pipeline)
server.metrics = metrics.registry(lambda: pipeline.get_by_name("upscaler"))
pipeline.set_state(Gst.State.PLAYING)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(f"http://127.0.0.1:{args.port}", flush=True)
message = pipeline.get_bus().timed_pop_filtered(Gst.CLOCK_TIME_NONE, Gst.MessageType.EOS | Gst.MessageType.ERROR)
if message.type == Gst.MessageType.ERROR:
    parser.exit(1, f"{message.parse_error().gerror.message}\n")
