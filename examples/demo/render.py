"""Renders clip.mp4, the clip that `make demo` upscales: a camera that glides over a wall with posters and a window.

Everything is drawn here, so the clip may be shipped. It is drawn at 1280x720, scaled down four times (bicubic) and
compressed like a video from the web. Needs numpy, Pillow and ffmpeg:

    python examples/demo/render.py examples/demo/clip.mp4
    python examples/demo/render.py --original original.mp4      # as it was before it was scaled down
"""

import argparse
import math
import subprocess

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

WIDTH, HEIGHT, SCALE, FRAMES, RATE = 1280, 720, 4, 100, 25
WALL = (2200, 1300)


def noise(rng, size, cell):
    """Smooth noise in 0..1 with features of `cell` pixels."""
    grid = rng.random((size[1] // cell + 2, size[0] // cell + 2)) * 255
    return np.asarray(Image.fromarray(grid.astype(np.uint8)).resize(size, Image.BICUBIC), np.float32) / 255


def bricks(rng):
    """A brick wall with weathered colours."""
    image = Image.new("RGB", WALL, (186, 178, 168))
    draw = ImageDraw.Draw(image)
    for row, y in enumerate(range(0, WALL[1], 44)):
        for x in range(-100 + row % 2 * 50, WALL[0], 100):
            shade = rng.integers(-18, 18)
            colour = tuple(int(c + shade + rng.integers(-6, 6)) for c in (148, 78, 62))
            draw.rounded_rectangle((x + 3, y + 3, x + 96, y + 40), 4, fill=colour)
    grain = sum(noise(rng, WALL, cell) * weight for cell, weight in ((3, 0.25), (9, 0.25), (60, 0.5)))
    pixels = np.asarray(image, np.float32) * (0.75 + 0.5 * grain[..., None])
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def text(draw, xy, string, size, fill, anchor="mm"):
    draw.text(xy, string, font=ImageFont.load_default(size), fill=fill, anchor=anchor)


def concert():
    """A poster: a star of fine rays, rings, large and small type."""
    poster = Image.new("RGB", (520, 740), (246, 238, 220))
    draw = ImageDraw.Draw(poster)
    centre, ink = (260, 300), (24, 40, 84)
    for ray in range(48):
        a, b = (2 * math.pi * (ray + shift) / 48 for shift in (-0.25, 0.25))
        tip = [(centre[0] + 230 * math.cos(t), centre[1] + 230 * math.sin(t)) for t in (a, b)]
        draw.polygon([centre, *tip], fill=(214, 60, 44) if ray % 2 else ink)
    draw.ellipse((150, 190, 370, 410), fill=(246, 238, 220))
    for radius in range(100, 12, -11):
        draw.ellipse((260 - radius, 300 - radius, 260 + radius, 300 + radius), outline=ink, width=4)
    text(draw, (260, 590), "SUMMER NIGHTS", 58, ink)
    text(draw, (260, 642), "open air cinema and music", 33, (214, 60, 44))
    text(draw, (260, 686), "doors 19:30 - gate B - row 12", 26, ink)
    return poster


def timetable():
    """A timetable: lines and type at the limit of what survives the scaling."""
    board = Image.new("RGB", (560, 600), (22, 58, 92))
    draw = ImageDraw.Draw(board)
    text(draw, (280, 50), "DEPARTURES", 60, (255, 255, 255))
    rows = [
        ("08:15", "Old Harbour", "4"),
        ("08:22", "Museum", "2"),
        ("08:40", "Airport", "7"),
        ("09:05", "Lakeside", "1"),
    ]
    for row, (time, place, platform) in enumerate(rows):
        y = 130 + 78 * row
        draw.line((20, y + 38, 540, y + 38), fill=(120, 160, 190), width=3)
        text(draw, (30, y), time, 42, (255, 214, 80), "lm")
        text(draw, (190, y), place, 42, (255, 255, 255), "lm")
        text(draw, (520, y), platform, 42, (255, 255, 255), "rm")
    for bar in range(52):
        draw.rectangle((30 + bar * 10, 460, 34 + bar * 10 + bar % 3, 540), fill=(235, 240, 245))
    text(draw, (280, 572), "valid from 1 May on weekdays", 28, (200, 220, 235))
    return board


def window(rng):
    """A window with shutters and a plant: stripes, leaves, soft light."""
    frame = Image.new("RGB", (620, 760), (60, 92, 84))
    draw = ImageDraw.Draw(frame)
    for side in (0, 450):
        for slat in range(0, 760, 22):
            draw.rectangle((side + 10, slat + 3, side + 160, slat + 15), fill=(92, 138, 126))
            draw.line((side + 10, slat + 16, side + 160, slat + 16), fill=(30, 52, 48), width=3)
    sky = np.linspace((250, 214, 170), (120, 150, 190), 700)[:, None].repeat(260, 1)
    frame.paste(Image.fromarray(sky.astype(np.uint8)), (180, 30))
    draw.rectangle((180, 30, 440, 730), outline=(240, 240, 232), width=12)
    draw.line((310, 30, 310, 730), fill=(240, 240, 232), width=9)
    draw.line((180, 330, 440, 330), fill=(240, 240, 232), width=9)
    for _ in range(420):
        angle, reach = rng.uniform(0, 2 * math.pi), rng.uniform(0, 1) ** 0.5
        x, y = 310 + 120 * reach * math.cos(angle), 600 + 110 * reach * math.sin(angle)
        tilt, long = rng.uniform(0, math.pi), rng.uniform(14, 30)
        dx, dy = long * math.cos(tilt), long * math.sin(tilt)
        green = (int(40 + 60 * rng.random()), int(90 + 110 * rng.random()), int(30 + 40 * rng.random()))
        leaf = [(x - dx, y - dy), (x - dy * 0.25, y + dx * 0.25), (x + dx, y + dy), (x + dy * 0.25, y - dx * 0.25)]
        draw.polygon(leaf, fill=green, outline=(20, 50, 20))
    return frame


def wall():
    """The whole scene, drawn twice as large as it is seen in its sharpest part."""
    rng = np.random.default_rng(4)
    scene = bricks(rng)
    for item, at in ((concert(), (180, 240)), (timetable(), (820, 330)), (window(rng), (1480, 180))):
        shadow = Image.new("L", (item.width + 60, item.height + 60))
        ImageDraw.Draw(shadow).rectangle((30, 30, item.width + 30, item.height + 30), fill=150)
        scene.paste((20, 14, 12), (at[0] - 14, at[1] - 10), shadow.filter(ImageFilter.GaussianBlur(12)))
        scene.paste(item, at)
    return scene


def camera(scene, time):
    """The view at `time` in 0..1: glides to the right, turns and comes closer."""
    ease = 0.5 - 0.5 * math.cos(math.pi * time)
    x, y = 520 + 1000 * ease, 640 + 50 * math.sin(2.2 * math.pi * time)
    zoom, turn = 0.98 - 0.22 * ease, math.radians(2.5 * math.sin(2 * math.pi * time))
    a, b = zoom * math.cos(turn), zoom * math.sin(turn)
    left, top = x - a * WIDTH / 2 - b * HEIGHT / 2, y + b * WIDTH / 2 - a * HEIGHT / 2
    return scene.transform((WIDTH, HEIGHT), Image.AFFINE, (a, b, left, -b, a, top), Image.BICUBIC)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--original", action="store_true", help="do not scale down")
    args = parser.parse_args()
    size = (WIDTH, HEIGHT) if args.original else (WIDTH // SCALE, HEIGHT // SCALE)
    command = f"ffmpeg -v error -y -f rawvideo -pix_fmt rgb24 -s {size[0]}x{size[1]} -r {RATE} -i - "
    command += "-vf scale=out_color_matrix=bt709 -colorspace bt709 -color_primaries bt709 -color_trc bt709 "
    command += f"-pix_fmt yuv420p -c:v libx264 -preset slow -crf {4 if args.original else 20}"
    encoder = subprocess.Popen([*command.split(), args.out], stdin=subprocess.PIPE)
    scene = wall()
    for frame in range(FRAMES):
        view = camera(scene, frame / (FRAMES - 1)).resize(size, Image.BICUBIC)
        encoder.stdin.write(view.tobytes())
    encoder.stdin.close()
    raise SystemExit(encoder.wait())
