#!/bin/sh
# Measures an NVIDIA GPU: builds, sets up ONNX Runtime for CUDA 13 in .venv-gpu, compares each provider's pictures with the
# CPU's, and writes the section "GPU" of benches/RESULTS.md. Made to take less than 8 minutes.
#
#   benches/gpu.sh                    cuda and tensorrt
#   benches/gpu.sh --providers cuda   one of them
set -eu
cd "$(dirname "$0")/.."

if [ ! -e /proc/driver/nvidia/version ] && [ ! -e /dev/nvidiactl ]; then
    echo "skipped: this machine has no NVIDIA GPU, or not its driver" >&2
    exit 0
fi
make -s target/release/libgstfastvsr.so
[ -x .venv-gpu/bin/python ] || python3 -m venv .venv-gpu
.venv-gpu/bin/pip install --quiet --disable-pip-version-check 'onnxruntime-gpu[cuda,cudnn]' onnx numpy
exec .venv-gpu/bin/python benches/gpu.py "$@"
