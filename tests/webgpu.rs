//! The picture of WebGPU, on a GPU that is a program: `make test-webgpu` brings one, and the ONNX Runtime that it needs.

mod common;

use common::*;

/// Two frames upscaled by a model, and the provider that served the last.
fn upscale(model: &str, provider: &str) -> (Vec<Vec<u8>>, String) {
    init();
    let element = gst::ElementFactory::make("fastvsr")
        .property("model", format!("{}/{model}", env!("CARGO_MANIFEST_DIR")))
        .property_from_str("execution-provider", provider)
        .property_from_str("precision", "fp32")
        .build()
        .unwrap();
    let caps = rgb(48, 32);
    let mut rig = Rig::with_caps(&element, &caps);
    for n in 0..2 {
        let pixel = |x: usize, y: usize| [(x * 5) as u8, (y * 7 + 40 * n) as u8, ((x * y) % 251) as u8];
        let mut frame = picture(&caps, pixel);
        stamp(&mut frame, n as u64);
        assert!(rig.push(frame).is_ok());
    }
    rig.eos();
    let info = info(&rig.output_caps());
    let pixels = rig.frames().iter().map(|frame| plane(frame, &info, 0)).collect();
    (pixels, rig.stats().get::<String>("provider").unwrap())
}

#[test]
#[ignore = "needs a Vulkan driver and another ONNX Runtime: `make test-webgpu`"]
fn webgpu_makes_the_picture_that_the_cpu_makes() {
    for model in [
        "models/compact-s",
        "models/compact-x2-xs",
        "tests/data/counter",
        "tests/data/neighbours",
        "tests/data/plain/x2.onnx",
    ] {
        let (wanted, served) = upscale(model, "cpu");
        assert_eq!((wanted.len(), served.as_str()), (2, "cpu"), "{model}");
        let (pixels, served) = upscale(model, "webgpu");
        assert_eq!((pixels.len(), served.as_str()), (2, "webgpu"), "{model}");
        let worst = wanted.iter().flatten().zip(pixels.iter().flatten()).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(worst <= Some(1), "{model}: {worst:?} levels");
    }
}

#[test]
#[ignore = "needs a Vulkan driver and another ONNX Runtime: `make test-webgpu`"]
fn a_gpu_that_is_a_program_has_to_be_asked_for() {
    assert_eq!(upscale("models/compact-xs-clean", "auto").1, "cpu");
}
