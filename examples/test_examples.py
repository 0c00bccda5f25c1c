"""Runs every example as a user would: servers with real clients, the window under Xvfb. For `make test-examples`."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import av
import numpy as np
import pytest
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
CLIP = ROOT / "examples/demo/clip.mp4"


def program(name):
    """The Rust example that was built last."""
    built = [path for kind in ("release", "debug") if (path := ROOT / "target" / kind / "examples" / name).exists()]
    assert built, "run: cargo build --release --examples"
    return str(max(built, key=lambda path: path.stat().st_mtime))


def run(*command, timeout=100):
    return subprocess.run(
        [str(part) for part in command], check=True, text=True, capture_output=True, timeout=timeout
    ).stdout


@pytest.fixture
def server():
    """Starts a server and waits until it says where it is; gives that."""
    started = []

    def start(*command):
        started.append(subprocess.Popen([sys.executable, *map(str, command)], stdout=subprocess.PIPE, text=True))
        return started[-1].stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def short(tmp_path_factory):
    """Three seconds of 96x64 with sound."""
    path = tmp_path_factory.mktemp("short") / "short.mp4"
    run(
        "ffmpeg",
        "-v",
        "error",
        *["-f", "lavfi", "-i", "testsrc2=s=96x64:r=25:d=3", "-f", "lavfi", "-i", "sine=d=3", "-c:a", "aac"],
        path,
    )
    return path


def shape(path):
    """Frames, width and height of what anybody would decode."""
    entries = "stream=nb_read_frames,width,height"
    text = run(
        *["ffprobe", "-v", "error", "-count_frames", "-select_streams", "v", "-of", "csv=p=0", "-show_entries"],
        entries,
        path,
    )
    width, height, frames = map(int, text.split()[0].split(",")[:3])
    return frames, width, height


def test_live_capture_reports_its_latency():
    source = "videotestsrc is-live=true pattern=ball num-buffers=90"
    text = run(program("live"), source, "x264enc tune=zerolatency speed-preset=ultrafast ! fakesink sync=false")
    medians = [float(median) for median in re.findall(r"median +([\d.]+) ms", text)]
    print(text)
    assert len(medians) == 3
    captured, upscaled, shown = medians
    assert 0 <= captured < upscaled < shown < 2000


def test_live_capture_without_a_camera_says_so():
    result = subprocess.run(
        [program("live"), "v4l2src device=/dev/none", "fakesink"], text=True, capture_output=True, timeout=60
    )
    assert result.returncode != 0
    assert "/dev/none" in result.stderr


def test_three_languages_one_behaviour(short, tmp_path):
    flags = run("pkg-config", "--cflags", "--libs", "gstreamer-app-1.0", "gstreamer-video-1.0").split()
    run("cc", "-Wall", "-Wextra", "-Werror", "-o", tmp_path / "embed", ROOT / "examples/embed.c", *flags)
    commands = [[program("embed")], [tmp_path / "embed"], [sys.executable, ROOT / "examples/embed.py"]]
    rust, c, python = (run(*command, short) for command in commands)
    assert len(rust.splitlines()) == 75
    assert re.fullmatch(r"\d+ ms: 384x256, brightness \d+\.\d\d", rust.splitlines()[0])
    assert rust == c == python
    for command in commands:
        result = subprocess.run([*map(str, command), "/no/such/file"], text=True, capture_output=True, timeout=60)
        assert result.returncode == 1
        assert "Resource not found" in result.stderr


@pytest.mark.parametrize(
    "imports", ["import numpy; from gi.repository import Gst", "from gi.repository import Gst; import numpy"]
)
def test_python_may_import_numpy_before_gstreamer_or_after(imports):
    """Debian's GStreamer brings an unwinder of its own: with the other one's exceptions it ends the process."""
    code = f"""
import gi
gi.require_version("Gst", "1.0")
{imports}
Gst.init(None)
source = "videotestsrc num-buffers=4 ! video/x-raw,width=64,height=48"
pipeline = Gst.parse_launch(f"{{source}} ! fastvsr execution-provider=openvino ! fakesink")
pipeline.set_state(Gst.State.PLAYING)
message = pipeline.get_bus().timed_pop_filtered(60 * Gst.SECOND, Gst.MessageType.EOS | Gst.MessageType.ERROR)
print(message.type == Gst.MessageType.EOS)
pipeline.set_state(Gst.State.NULL)
"""
    assert run(sys.executable, "-c", code) == "True\n"


@pytest.mark.parametrize(("provider", "model"), [("cpu", "starving"), ("openvino", "picky")])
def test_an_exception_of_the_runtime_is_an_error_on_the_bus_wherever_numpy_is(provider, model):
    """One graph asks for more memory than there is, the other adds what does not fit: C++ throws."""
    code = f"""
import gi
import numpy
gi.require_version("Gst", "1.0")
from gi.repository import Gst
Gst.init(None)
source = "videotestsrc num-buffers=4 ! video/x-raw,format=RGB,width=64,height=64"
model = "{ROOT}/tests/data/{model}"
pipeline = Gst.parse_launch(f"{{source}} ! fastvsr execution-provider={provider} model={{model}} ! fakesink")
pipeline.set_state(Gst.State.PLAYING)
message = pipeline.get_bus().timed_pop_filtered(60 * Gst.SECOND, Gst.MessageType.EOS | Gst.MessageType.ERROR)
print(message.parse_error()[0].message if message.type == Gst.MessageType.ERROR else "no error")
pipeline.set_state(Gst.State.NULL)
"""
    assert "on a frame of 64x64" in run(sys.executable, "-c", code)


def test_hls(short, tmp_path):
    run(ROOT / "examples/hls", short, tmp_path)
    playlist = (tmp_path / "playlist.m3u8").read_text()
    assert playlist.count("#EXTINF") == 2
    assert "#EXT-X-ENDLIST" in playlist
    assert shape(tmp_path / "playlist.m3u8") == (75, 384, 256)
    assert "aac" in run("ffprobe", "-v", "error", "-show_streams", tmp_path / "playlist.m3u8")


VIDEO = "document.querySelector('video')"


def numbers(url):
    """What Prometheus reads there, by name and labels."""
    lines = urlopen(url).read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def until(condition, seconds=60):
    """Whether it becomes true."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.2)
    return condition()


def rtsp_client(url, out):
    """A real one: ffmpeg's."""
    run("ffmpeg", "-v", "error", "-rtsp_transport", "tcp", "-i", url, "-frames:v", 15, out)
    return shape(out)


def test_an_rtsp_server(server, tmp_path):
    metrics = 14554 + os.getpid() % 1000
    url = server(ROOT / "examples/rtsp_server.py", "test", "--port", 8554 + os.getpid() % 1000, "--metrics", metrics)
    # Without a client there is no pipeline, and with one there are numbers.
    assert not numbers(f"http://127.0.0.1:{metrics}/metrics")
    with subprocess.Popen(["ffmpeg", "-v", "error", "-rtsp_transport", "tcp", "-i", url, "-f", "null", "-"]) as client:
        assert until(lambda: numbers(f"http://127.0.0.1:{metrics}/metrics").get("fastvsr_frames_out_total", 0) >= 15)
        client.terminate()
    assert rtsp_client(url, tmp_path / "client.mp4") == (15, 640, 360)


def test_an_rtsp_server_of_a_file(server, short, tmp_path):
    url = server(ROOT / "examples/rtsp_server.py", short, "--port", 9554 + os.getpid() % 1000)
    assert rtsp_client(url, tmp_path / "client.mp4") == (15, 384, 256)


CAMERA = """
import sys, gi
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
camera = "videotestsrc is-live=true ! video/x-raw,width=96,height=64,framerate=15/1"
launch = f"( {camera} ! x264enc tune=zerolatency key-int-max=15 ! rtph264pay name=pay0 config-interval=-1 )"
factory = GstRtspServer.RTSPMediaFactory(launch=launch, shared=True)
server = GstRtspServer.RTSPServer(service=sys.argv[1])
server.get_mount_points().add_factory("/camera", factory)
server.attach(None)
print(f"rtsp://127.0.0.1:{sys.argv[1]}/camera", flush=True)
GLib.MainLoop().run()
"""


def test_an_rtsp_server_of_an_rtsp_camera(server, tmp_path):
    camera = server("-c", CAMERA, 10554 + os.getpid() % 1000)
    url = server(ROOT / "examples/rtsp_server.py", camera, "--port", 11554 + os.getpid() % 1000)
    assert rtsp_client(url, tmp_path / "client.mp4") == (15, 384, 256)


def picture(description, path):
    """The last frame of a pipeline, RGB."""
    run(
        "gst-launch-1.0",
        "-q",
        *f"{description} ! videoconvert ! pngenc ! multifilesink location={path}".split(),
    )
    return pixels(path)


def pixels(path):
    with av.open(str(path)) as file:
        return next(file.decode(video=0)).to_ndarray(format="rgb24").astype(float)


def psnr(a, b):
    return 10 * np.log10(255**2 / max(np.square(a - b).mean(), 1e-9))


def test_the_preview_wipes_where_the_mouse_is(tmp_path):
    still, shot = tmp_path / "still.mp4", tmp_path / "shot.png"
    run(
        "ffmpeg",
        "-v",
        "error",
        "-i",
        CLIP,
        *["-vf", "loop=60:1,trim=end_frame=60", "-c:v", "libx264", "-qp", "0"],
        still,
    )
    script = f"""
        {program("preview")} {still} & preview=$!
        trap 'kill $preview' EXIT
        for try in $(seq 100); do xdotool search --class . >/dev/null 2>&1 && break; sleep 0.2; done
        for try in $(seq 60); do
            xdotool mousemove 500 300; sleep 0.2; xdotool mousemove 400 310; sleep 2; import -window root {shot}
            [ "$(convert {shot} -crop 1x720+400+0 -format '%[fx:minima>0.94]' info:)" = 1 ] && break
        done
    """
    run("xvfb-run", "-a", "-s", "-screen 0 1280x720x24", "bash", "-c", script)
    source = f"filesrc location={still} ! decodebin ! videoconvert ! identity eos-after=12"
    size = "video/x-raw,width=1280,height=720"
    bicubic = picture(f"{source} ! videoscale method=catrom ! {size}", tmp_path / "bicubic.png")
    upscaled = picture(f"{source} ! fastvsr", tmp_path / "upscaled.png")
    shown = pixels(shot)
    assert shown.shape == (720, 1280, 3)
    left, right = (slice(None), slice(0, 398)), (slice(None), slice(403, None))
    assert psnr(shown[left], bicubic[left]) > psnr(shown[left], upscaled[left]) + 6
    assert psnr(shown[right], upscaled[right]) > psnr(shown[right], bicubic[right]) + 3
    assert (shown[:, 400] > 240).all(), "no line at the mouse"


def test_a_webrtc_server_and_two_browsers(server, tmp_path):
    url = server(ROOT / "examples/webrtc_server.py", "test", "--port", 12554 + os.getpid() % 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        complaints, pages = [], [browser.new_page(viewport={"width": 640, "height": 360}) for viewer in range(2)]
        for number, page in enumerate(pages):
            page.on("console", lambda message: complaints.append(message.text))
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.goto(url)
            page.wait_for_function(f"{VIDEO}.getVideoPlaybackQuality().totalVideoFrames > 15")
            assert page.evaluate(f"[{VIDEO}.videoWidth, {VIDEO}.videoHeight]") == [640, 360]
            page.screenshot(path=tmp_path / f"{number}.png")
        # The first one goes, and the second one sees no less of it.
        pages[0].goto("about:blank")
        seen = pages[1].evaluate(f"{VIDEO}.getVideoPlaybackQuality().totalVideoFrames")
        pages[1].wait_for_function(f"{VIDEO}.getVideoPlaybackQuality().totalVideoFrames > {seen + 30}")
        browser.close()
    told = numbers(f"{url}/metrics")
    assert told["fastvsr_frames_in_total"] >= told["fastvsr_frames_out_total"] > 45
    assert told['fastvsr_stage_seconds{stage="decoder"}'] > 0
    assert [name for name in told if name.startswith("fastvsr_info{") and 'model="compact-s"' in name]
    assert complaints == []
    for number in range(2):
        shot = pixels(tmp_path / f"{number}.png")
        assert 100 < (shot.min(-1) > 200).sum() < 40_000, "expected a white ball on black"


def test_a_webrtc_server_says_what_it_expects(server):
    url = server(ROOT / "examples/webrtc_server.py", "test", "--port", 13554 + os.getpid() % 1000)
    for offer in (b"", b"v=0", "ü".encode("latin-1")):
        with pytest.raises(HTTPError) as refused:
            urlopen(url, offer)
        assert refused.value.code == 400
        assert b"H.264" in refused.value.read()
    with pytest.raises(HTTPError) as refused:
        urlopen(Request(f"{url}/7", method="DELETE"))
    assert refused.value.code == 404


def test_the_page_of_a_comparison_is_dragged_in_a_browser(tmp_path):
    run(ROOT / "target/release/fastvsr", "compare", CLIP, "--html", "--duration", 0.2, "--output", tmp_path / "clip")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        complaints = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: request.url.startswith(("file:", "data:")) or complaints.append(request.url))
        page.goto((tmp_path / "clip.html").as_uri())
        wipe = page.locator("#wipe")
        # All the way to the left fastvsr is seen alone, to the right bicubic.
        page.mouse.move(640, 300)
        page.mouse.down()
        shots = []
        for x in (0, 320, 1279):
            page.mouse.move(x, 300, steps=4)
            page.screenshot(path=tmp_path / "shot.png")
            shots.append(pixels(tmp_path / "shot.png"))
        page.mouse.up()
        page.mouse.move(100, 300)
        assert wipe.get_attribute("aria-valuenow") == "100"
        wipe.press("ArrowLeft")
        assert wipe.get_attribute("aria-valuenow") == "98"
        browser.close()
    assert complaints == []
    upscaled, dragged, bicubic = (shot[60:700] for shot in shots)
    assert dragged.shape == (640, 1280, 3)
    assert 15 < psnr(upscaled, bicubic) < 40
    left, right = (slice(None), slice(0, 316)), (slice(None), slice(324, 1270))
    assert psnr(dragged[left], bicubic[left]) > 60
    assert psnr(dragged[right], upscaled[right]) > 60
    assert (dragged[:, 319:321] > 250).all(), "no line at the mouse"


def test_a_package_of_ones_own(tmp_path):
    run(sys.executable, ROOT / "examples/bring_your_own.py", tmp_path / "bilinear")
    source = "videotestsrc num-buffers=1 pattern=gradient ! video/x-raw,format=RGB,width=32,height=32"
    ours = picture(f"{source} ! fastvsr execution-provider=cpu model={tmp_path}/bilinear", tmp_path / "ours.png")
    theirs = picture(
        f"{source} ! videoscale method=bilinear ! video/x-raw,width=128,height=128", tmp_path / "theirs.png"
    )
    assert ours.shape == theirs.shape
    assert psnr(ours[8:-8, 8:-8], theirs[8:-8, 8:-8]) > 40


def test_playbin_takes_it_as_a_filter(short):
    text = run(
        *["gst-launch-1.0", "-v", "playbin", "video-sink=fakesink", "audio-sink=fakesink"],
        f"uri={short.as_uri()}",
        "video-filter=videoconvert ! fastvsr ! videoconvert",
    )
    assert re.search(r"fakesink.*width=\(int\)384, height=\(int\)256", text)


def test_no_example_is_without_its_use():
    for path in [*(ROOT / "examples").glob("*.rs"), *(ROOT / "examples").glob("*.py")]:
        if path != Path(__file__):
            assert f"examples/{path.name}" in path.read_text() or f"--example {path.stem}" in path.read_text(), path
