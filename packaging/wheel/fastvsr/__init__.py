"""The command `fastvsr` of the Python package: starts the program in it, or says what the system lacks for that."""

import ctypes
import os
import sys
from pathlib import Path

# The wheel brings no GStreamer: the element must live in the one that the applications of the system use.
LIBRARIES = ("libgstreamer-1.0.so.0", "libgstapp-1.0.so.0", "libgstpbutils-1.0.so.0", "libgstvideo-1.0.so.0")
MISSING = """fastvsr: expected GStreamer 1.22 or later, got: {}
Install it, with what reads and writes films:
  Debian, Ubuntu: apt install gstreamer1.0-{{tools,libav,x}} gstreamer1.0-plugins-{{base,good,bad,ugly}}
  Fedora:         dnf install gstreamer1-plugins-{{base,good,bad-free,ugly-free}} gstreamer1-plugin-libav
                  and, for x264enc, gstreamer1-plugins-ugly of RPM Fusion
  Arch:           pacman -S gst-plugins-{{base,good,bad,ugly}} gst-libav
  openSUSE:       zypper install gstreamer-utils gstreamer-plugins-{{base,good,bad,ugly,libav}}"""
OLD = "fastvsr: expected GStreamer 1.22 or later, got {}.{}: install a later release of the system"


def main():
    try:
        gstreamer, *_ = map(ctypes.CDLL, LIBRARIES)
    except OSError as err:
        sys.exit(MISSING.format(err))
    version = [ctypes.c_uint() for _ in range(4)]
    gstreamer.gst_version(*map(ctypes.byref, version))
    major, minor, *_ = (part.value for part in version)
    if (major, minor) < (1, 22):
        sys.exit(OLD.format(major, minor))
    os.execv(Path(__file__).with_name("bin") / "fastvsr", ["fastvsr", *sys.argv[1:]])
