"""Runs the commands of the documentation, and holds it against the element and the sources."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cluster.media import Gst
from gi.repository import GObject

DOCS = Path(__file__).parent
ROOT = DOCS.parent
# docs/command-line.md is held against its program by tests of its own.
PAGES = [page for page in sorted(DOCS.glob("*.md")) if page.name != "command-line.md"] + [
    ROOT / "examples/cluster/README.md"
]


def blocks(page):
    return re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_run(page, tmp_path):
    for name in ("examples", "models"):
        (tmp_path / name).symlink_to(ROOT / name)
    short = ["ffmpeg", "-v", "error", "-i", ROOT / "examples/demo/clip.mp4", "-vf", "scale=96:54", "-frames:v", "10"]
    subprocess.run([*short, tmp_path / "in.mp4"], check=True)
    programs = [str(Path(sys.executable).parent), str(ROOT / "target/release"), os.environ["PATH"]]
    environment = os.environ | {"PATH": ":".join(programs)}
    for block in blocks(page):
        if block.startswith("# not run: "):
            continue
        done = subprocess.run(
            ["bash", "-e", "-c", block], cwd=tmp_path, env=environment, text=True, capture_output=True, timeout=120
        )
        assert done.returncode == 0, f"{block}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"


def row(spec):
    """The first four cells of a property's row, from the element's own word."""
    kind, default = spec.value_type.name.removeprefix("g"), getattr(spec, "default_value", None)
    if hasattr(spec, "enum_class"):
        values = [value.value_nick for value in spec.enum_class.__enum_values__.values()]
        kind, default = ", ".join(f"`{value}`" for value in values), f"`{default.value_nick}`"
    elif kind in ("int", "uint", "uint64") and spec.maximum < 2**64 - 1:
        kind += f", {spec.minimum} to {spec.maximum}"
    elif kind == "chararray":
        kind, default = "string", f"`{default}`" if default else "searched"
    elif kind == "boolean":
        default = str(default).lower()
    elif kind == "GstStructure":
        kind, default = "structure", ""
    default = "measured" if default == 2**64 - 1 else str(default)
    playing = spec.flags & Gst.PARAM_MUTABLE_PLAYING
    change = "read-only" if not spec.flags & GObject.ParamFlags.WRITABLE else "while playing" if playing else "in READY"
    return [f"`{spec.name}`", kind, default, change]


def test_every_property_is_as_the_element_says():
    element = Gst.ElementFactory.make("fastvsr")
    inherited = {"name", "parent", "qos"}
    ours = {spec.name: row(spec) for spec in element.list_properties() if spec.name not in inherited}
    rows = [
        line.strip("| ").split("|") for line in (DOCS / "properties.md").read_text().splitlines() if line[:3] == "| `"
    ]
    assert {cells[0].strip(" `"): [cell.strip() for cell in cells[:4]] for cells in rows} == ours


def test_every_message_is_one_of_the_sources():
    sources = " ".join(path.read_text() for path in (ROOT / "src").rglob("*.rs"))
    sources = re.sub(r"\\\n\s*", "", sources)
    messages = re.findall(r"^### `(.*)`$", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)
    assert len(messages) > 5
    for message in messages:
        for part in message.split("…"):
            assert part.strip() in sources, message


def test_links_lead_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#:]+)[^):]*\)", page.read_text()):
            assert (page.parent / link).exists() or link == "command-line.md", f"{page}: {link}"
