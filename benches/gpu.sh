#!/bin/sh
# Measures an NVIDIA GPU: compares the pictures of providers with the CPU's, and writes the section "GPU" of benches/RESULTS.md, row by
# row, for LIMIT seconds at most (480).
#
#   benches/gpu.sh                               CUDA
#   benches/gpu.sh --providers cuda,tensorrt     both
#   benches/gpu.sh --prepare FOLDER              for a machine without cargo, pip and apt: puts what it needs into FOLDER
#   PREBUILT=FOLDER benches/gpu.sh               measures there, by the ONNX Runtime that its Python or ORT_DYLIB_PATH has
set -eu
PREBUILT=${PREBUILT:+$(realpath "$PREBUILT")}
[ "${1:-}" = --prepare ] && folder=$(realpath -m "$2")
cd "$(dirname "$0")/.."

prepare() {
    make -s target/release/libgstfastvsr.so
    mkdir -p "$1"
    cp target/release/libgstfastvsr.so "$1"
    gst-launch-1.0 -q filesrc location=examples/demo/clip.mp4 ! decodebin ! videoconvert ! video/x-raw,format=RGB ! \
        identity eos-after=25 ! filesink location="$1/clip.rgb"
}

if [ "${1:-}" = --prepare ]; then
    prepare "$folder"
    exit
fi
if [ ! -e /proc/driver/nvidia/version ] && [ ! -e /dev/nvidiactl ]; then
    echo "skipped: this machine has no NVIDIA GPU, or not its driver" >&2
    exit 0
fi
python=python3
if [ -z "${PREBUILT:-}" ]; then
    export PREBUILT="$PWD/target/gpu"
    prepare "$PREBUILT"
    python=.venv-gpu/bin/python
    [ -x $python ] || python3 -m venv .venv-gpu
    .venv-gpu/bin/pip install --quiet --disable-pip-version-check 'onnxruntime-gpu[cuda,cudnn]' numpy
fi
exec timeout --kill-after=5 "${LIMIT:-480}" $python benches/gpu.py "$@"
