"""WebRTC: a browser, or whatever speaks WHEP, sees a camera upscaled.

    python3 examples/webrtc_server.py test                    # a moving test picture; open http://127.0.0.1:8080
    python3 examples/webrtc_server.py "v4l2src ! video/x-raw,width=320,height=180"

A client posts its offer to /whep and gets the answer, with all addresses in it: that is WHEP's whole signalling. Every
client has a pipeline of its own. Needs Debian's python3-gi, gir1.2-gst-plugins-bad-1.0 and gstreamer1.0-nice.
"""

import argparse
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstWebRTC", "1.0")
gi.require_version("GstSdp", "1.0")
from gi.repository import Gst, GstSdp, GstWebRTC  # noqa: E402

TEST = "videotestsrc is-live=true pattern=ball ! video/x-raw,width=160,height=90,framerate=15/1"
PAGE = b"""<!doctype html><title>fastvsr</title><video id=v autoplay muted playsinline></video><script>(async () => {
const pc = new RTCPeerConnection(); pc.addTransceiver('video', {direction: 'recvonly'});
pc.ontrack = event => v.srcObject = event.streams[0] || new MediaStream([event.track]);
await pc.setLocalDescription(await pc.createOffer());
await new Promise(done => pc.onicegatheringstatechange = () => pc.iceGatheringState == 'complete' && done());
const answer = await fetch('whep', {method: 'POST', body: pc.localDescription.sdp});
await pc.setRemoteDescription({type: 'answer', sdp: await answer.text()}); })()</script>"""


class Client:
    """One client's pipeline, from its offer on; it ends with the connection."""

    def __init__(self, source, offer):
        # The number that the client has given to VP8, which every browser decodes.
        number = next(
            line.split()[0].split(":")[1] for line in offer.splitlines() if line.upper().endswith(" VP8/90000")
        )
        self.pipeline = Gst.parse_launch(
            f"{source} ! videoconvert ! queue leaky=downstream max-size-buffers=2 ! fastvsr window=1 ! videoconvert ! "
            f"queue ! vp8enc deadline=1 cpu-used=8 target-bitrate=3000000 keyframe-max-dist=60 ! rtpvp8pay pt={number} "
            f"! webrtcbin name=peer bundle-policy=max-bundle"
        )
        self.peer, self.gathered = self.pipeline.get_by_name("peer"), threading.Event()
        self.peer.connect("notify::ice-gathering-state", self.on_gathering)
        self.peer.connect("notify::connection-state", self.on_connection)
        self.pipeline.set_state(Gst.State.PLAYING)
        self.describe(
            "set-remote-description", GstWebRTC.WebRTCSDPType.OFFER, GstSdp.SDPMessage.new_from_text(offer)[1]
        )
        promise = Gst.Promise.new()
        self.peer.emit("create-answer", None, promise)
        promise.wait()
        answer = promise.get_reply().get_value("answer")
        self.describe("set-local-description", answer.type, answer.sdp)

    def describe(self, action, kind, sdp):
        promise = Gst.Promise.new()
        self.peer.emit(action, GstWebRTC.WebRTCSessionDescription.new(kind, sdp), promise)
        promise.wait()

    def on_gathering(self, peer, _):
        if peer.get_property("ice-gathering-state") == GstWebRTC.WebRTCICEGatheringState.COMPLETE:
            self.gathered.set()

    def on_connection(self, peer, _):
        states = GstWebRTC.WebRTCPeerConnectionState
        if peer.get_property("connection-state") in (states.DISCONNECTED, states.FAILED, states.CLOSED):
            # Not from webrtcbin's own thread, which would wait for itself.
            threading.Thread(target=self.pipeline.set_state, args=(Gst.State.NULL,)).start()

    def answer(self):
        """The answer, once all addresses are in it."""
        self.gathered.wait(5)
        return self.peer.get_property("local-description").sdp.as_text().encode()


class Handler(BaseHTTPRequestHandler):
    def reply(self, status, kind, body):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.reply(200, "text/html", PAGE)

    def do_POST(self):
        offer = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.reply(201, "application/sdp", Client(args.source, offer).answer())


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("source", help="a live source as for gst-launch-1.0, or `test`")
parser.add_argument("--port", type=int, default=8080)
args = parser.parse_args()
args.source = TEST if args.source == "test" else args.source
Gst.init(None)
print(f"http://127.0.0.1:{args.port}", flush=True)
ThreadingHTTPServer(("127.0.0.1", args.port), Handler).serve_forever()
