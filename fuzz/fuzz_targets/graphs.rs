//! Graphs that do not match their manifest, damaged graphs, any size of frame: an error, or frames of the right size.

#![no_main]

use std::{
    fs,
    sync::{Arc, LazyLock},
};

use arbitrary::Arbitrary;
use gstfastvsr::{
    engine::{Cancel, Engine, Key, Provider, Runtime, Stream, load_runtime},
    frames::Size,
    model::Source,
    window::Windower,
};
use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};

#[derive(Debug, Arbitrary)]
struct Input {
    encoder: Option<u8>,
    unet: Option<u8>,
    decoder: u8,
    state: Option<(u8, u8, u8)>,
    scale: u8,
    multiple: u8,
    memory: Option<u16>,
    halo: u8,
    damage: Option<(u16, u8)>,
    length: Option<u16>,
    width: u8,
    height: u8,
    frames: u8,
    tight: bool,
}

static RUNTIME: LazyLock<&Runtime> = LazyLock::new(|| load_runtime(None, &[], |_, _| {}).unwrap());

static GRAPHS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let tests = ["nearest", "twice", "floats", "counter", "neighbours", "growing", "picky", "picky-memory", "hungry"];
    let decoders = tests.map(|name| format!("{root}/tests/data/{name}/decoder.onnx"));
    let stages = ["encoder", "unet", "decoder"].map(|stage| format!("{root}/models/compact-s/{stage}.onnx"));
    decoders.iter().chain(&stages).map(|path| fs::read(path).unwrap()).collect()
});

fn graph(input: &Input, number: u8) -> Vec<u8> {
    let mut graph = GRAPHS[usize::from(number) % GRAPHS.len()].clone();
    if let Some((at, value)) = input.damage {
        let length = graph.len();
        graph[usize::from(at) % length] ^= value;
    }
    graph.truncate(input.length.map_or(graph.len(), |length| usize::from(length) * 16));
    graph
}

fuzz_target!(|input: Input| {
    let folder = tempfile::tempdir().unwrap();
    let mut manifest = format!(
        "format = 1\nname = 'fuzz'\nversion = '1'\nlicense = 'MIT'\ndescription = ''\n[geometry]\nscale = {}\n\
         multiple = {}\nmemory = {}\n[time]\nwindow = 2\n",
        input.scale % 8,
        input.multiple % 16,
        input.memory.unwrap_or(0)
    );
    let stages = [("encoder", input.encoder), ("unet", input.unet), ("decoder", Some(input.decoder))];
    for (name, number) in stages {
        let Some(number) = number else { continue };
        let graph = graph(&input, number);
        let hash: String = Sha256::digest(&graph).iter().map(|byte| format!("{byte:02x}")).collect();
        fs::write(folder.path().join(name), graph).unwrap();
        manifest += &format!("[stages.{name}]\nfile = '{name}'\nsha256 = '{hash}'\nhalo = {}\n", input.halo);
        if let Some((which, channels, stride)) = input.state {
            let (from, to) = [("count", "count_out"), ("memory", "memory_out"), ("unet_state", "unet_state_out")]
                [usize::from(which) % 3];
            manifest += &format!(
                "[[stages.{name}.state]]\ninput = '{from}'\noutput = '{to}'\nchannels = {channels}\nstride = {stride}\n"
            );
        }
    }
    fs::write(folder.path().join("model.toml"), manifest).unwrap();
    let source = Source::find(folder.path().to_str().unwrap()).unwrap();
    let key = Key { source, provider: Some(Provider::Cpu), device_id: 0, precision: None };
    let Ok(engine) = Engine::open(*RUNTIME, &key) else { return };

    let size = Size { width: usize::from(input.width % 64) + 1, height: usize::from(input.height % 64) + 1 };
    let padded = engine.padded(size);
    let bytes = padded.scaled(engine.scale()).rgb_bytes();
    let mut windower = Windower::new(engine.manifest().time, 0);
    let limit = input.tight.then_some(160 << 20);
    let Ok(mut stream) = Stream::new(Arc::clone(&engine), padded, windower.delay() + 1, limit, 0, |_| {}) else { return };
    let cancel = Arc::<Cancel>::default();
    let count = usize::from(input.frames % 5);
    let mut windows: Vec<_> =
        (0..count).filter_map(|n| windower.push(Arc::new(vec![n as u8; padded.rgb_bytes()]))).collect();
    windows.extend(windower.close());
    for window in windows {
        let kept = window.keep.len();
        stream.push(window);
        for _ in 0..kept {
            match stream.next(vec![0u8; bytes], &cancel) {
                Ok(frame) => assert!(frame.is_some(), "a frame that was pushed is lost"),
                Err(_) => return,
            }
        }
    }
});
