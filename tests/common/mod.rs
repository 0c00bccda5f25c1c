//! What the integration tests share: the element between two pads whose every output is recorded, small frames, and
//! waits that end.

#![allow(dead_code, reason = "every test file uses its own part")]
#![allow(unreachable_pub, reason = "a module of several test programs")]

pub mod samples;
pub mod slow;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, Once},
    time::Duration,
};

use gst::prelude::*;
use gst_check::Harness;
use gst_video::{VideoFrameExt, VideoFrameRef, VideoInfo};

/// Longest wait for anything that should happen: on a machine with other work it may take as long as that, and only what hangs
/// takes longer.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// The same for a pipeline.
pub const TIMEOUT: gst::ClockTime = gst::ClockTime::from_seconds(PATIENCE.as_secs());

/// Duration of a frame in the caps of [`rgb`].
pub const FRAME: gst::ClockTime = gst::ClockTime::from_mseconds(40);

/// Levels that the model `counter` adds for every frame since the last reset.
pub const STEP: u8 = 10;

pub fn init() {
    static INIT: Once = Once::new();
    INIT.call_once(|| {
        gst::init().unwrap();
        gstfastvsr::plugin_register_static().unwrap();
    });
}

/// The folder of a model package made by `data/make.py`.
pub fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// The element on the CPU provider, which computes the same everywhere.
pub fn fastvsr(model_name: &str, window: u32) -> gst::Element {
    init();
    let model = if model_name == "compact-s" { PathBuf::from(model_name) } else { model(model_name) };
    gst::ElementFactory::make("fastvsr")
        .property("model", model.to_str().unwrap())
        .property_from_str("execution-provider", "cpu")
        .property("window", window)
        .build()
        .unwrap()
}

/// RGB caps at 25 frames a second.
pub fn rgb(width: u32, height: u32) -> gst::Caps {
    init();
    VideoInfo::builder(gst_video::VideoFormat::Rgb, width, height)
        .fps(gst::Fraction::new(25, 1))
        .build()
        .unwrap()
        .to_caps()
        .unwrap()
}

pub fn info(caps: &gst::Caps) -> VideoInfo {
    VideoInfo::from_caps(caps).unwrap()
}

/// An RGB frame with the pixels that `pixel` says.
pub fn picture(caps: &gst::Caps, pixel: impl Fn(usize, usize) -> [u8; 3]) -> gst::Buffer {
    let info = info(caps);
    let mut buffer = gst::Buffer::with_size(info.size()).unwrap();
    {
        let mut frame = VideoFrameRef::from_buffer_ref_writable(buffer.get_mut().unwrap(), &info).unwrap();
        let (stride, width) = (frame.plane_stride()[0] as usize, info.width() as usize);
        for (y, row) in frame.plane_data_mut(0).unwrap().chunks_mut(stride).enumerate() {
            for (x, out) in row[..width * 3].chunks_exact_mut(3).enumerate() {
                out.copy_from_slice(&pixel(x, y));
            }
        }
    }
    buffer
}

/// Frame `n` of a stream: grey of one level, with the timestamps of 25 frames a second.
pub fn flat(caps: &gst::Caps, n: u64, level: u8) -> gst::Buffer {
    let mut buffer = picture(caps, |_, _| [level; 3]);
    stamp(&mut buffer, n);
    buffer
}

pub fn stamp(buffer: &mut gst::Buffer, n: u64) {
    let buffer = buffer.make_mut();
    buffer.set_pts(FRAME * n);
    buffer.set_duration(FRAME);
    buffer.set_offset(n);
    buffer.set_offset_end(n + 1);
}

pub fn with_flags(mut buffer: gst::Buffer, flags: gst::BufferFlags) -> gst::Buffer {
    buffer.make_mut().set_flags(flags);
    buffer
}

/// The pixels of one plane, rows without their padding.
pub fn plane(buffer: &gst::Buffer, info: &VideoInfo, plane: u32) -> Vec<u8> {
    let frame = VideoFrameRef::from_buffer_ref_readable(buffer, info).unwrap();
    let stride = frame.plane_stride()[plane as usize] as usize;
    let component = (0..frame.n_components()).find(|c| frame.comp_plane(*c) == plane).unwrap();
    let row = frame.comp_width(component) as usize * frame.comp_pstride(component) as usize;
    frame.plane_data(plane).unwrap().chunks(stride).flat_map(|data| data[..row].to_vec()).collect()
}

/// The one level that all bytes of an RGB frame have.
#[track_caller]
pub fn level(buffer: &gst::Buffer, caps: &gst::Caps) -> u8 {
    let pixels = plane(buffer, &info(caps), 0);
    assert!(pixels.iter().all(|value| *value == pixels[0]), "the frame is not flat");
    pixels[0]
}

/// What left the element.
#[derive(Debug, Clone)]
pub enum Out {
    Frame(gst::Buffer),
    Event(gst::Event),
}

/// The element between two pads, what leaves it recorded in order.
pub struct Rig {
    pub harness: Harness,
    pub element: gst::Element,
    pub bus: gst::Bus,
    out: Arc<Mutex<Vec<Out>>>,
    downstream: Arc<Mutex<Result<gst::FlowSuccess, gst::FlowError>>>,
}

impl Rig {
    /// Runs a test model on RGB frames of 8x4.
    pub fn new(model: &str, window: u32) -> Self {
        Self::with_caps(&fastvsr(model, window), &rgb(8, 4))
    }

    pub fn with_caps(element: &gst::Element, caps: &gst::Caps) -> Self {
        let mut rig = Self::without_caps(element);
        rig.harness.set_src_caps(caps.clone());
        rig
    }

    pub fn without_caps(element: &gst::Element) -> Self {
        let bus = gst::Bus::new();
        element.set_bus(Some(&bus));
        let out = Arc::<Mutex<Vec<Out>>>::default();
        let downstream = Arc::new(Mutex::new(Ok(gst::FlowSuccess::Ok)));
        let mask = gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM | gst::PadProbeType::EVENT_FLUSH;
        element.static_pad("src").unwrap().add_probe(mask, {
            let (out, downstream) = (Arc::clone(&out), Arc::clone(&downstream));
            move |_, info| {
                let is_frame = matches!(info.data, Some(gst::PadProbeData::Buffer(_)));
                let answer = *downstream.lock().unwrap();
                if is_frame && answer.is_err() {
                    info.flow_res = answer;
                    // Handled, so that the probe's flow result is what the element sees.
                    info.data = None;
                    return gst::PadProbeReturn::Handled;
                }
                out.lock().unwrap().push(match &info.data {
                    Some(gst::PadProbeData::Buffer(buffer)) => Out::Frame(buffer.clone()),
                    Some(gst::PadProbeData::Event(event)) => Out::Event(event.clone()),
                    other => panic!("unexpected {other:?}"),
                });
                gst::PadProbeReturn::Ok
            }
        });
        if element.set_state(gst::State::Paused).is_err() {
            let error = bus.pop_filtered(&[gst::MessageType::Error]);
            panic!("the element does not start: {:?}", error.as_ref().map(error_text));
        }
        let mut harness = Harness::with_element(element, Some("sink"), Some("src"));
        harness.set_drop_buffers(true);
        Self { harness, element: element.clone(), bus, out, downstream }
    }

    /// What downstream answers to frames from now on.
    pub fn downstream_answers(&self, answer: Result<gst::FlowSuccess, gst::FlowError>) {
        *self.downstream.lock().unwrap() = answer;
    }

    pub fn push(&mut self, buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        self.harness.push(buffer)
    }

    pub fn event(&mut self, event: impl Into<gst::Event>) -> bool {
        self.harness.push_event(event.into())
    }

    pub fn eos(&mut self) {
        assert!(self.event(gst::event::Eos::new()), "EOS was not taken");
    }

    pub fn flush(&mut self) {
        assert!(self.event(gst::event::FlushStart::new()));
        assert!(self.event(gst::event::FlushStop::new(true)));
    }

    /// Pushes flat frames of the numbers `numbers`, each as bright as its number.
    pub fn push_flat(&mut self, numbers: impl IntoIterator<Item = u64>) {
        let caps = self.element.static_pad("sink").unwrap().current_caps().unwrap();
        for n in numbers {
            assert_eq!(self.push(flat(&caps, n, n as u8)), Ok(gst::FlowSuccess::Ok), "frame {n}");
        }
    }

    /// All that left since the last call.
    pub fn take(&self) -> Vec<Out> {
        std::mem::take(&mut self.out.lock().unwrap())
    }

    /// The frames that left since the last call.
    pub fn frames(&self) -> Vec<gst::Buffer> {
        let frame = |out| if let Out::Frame(buffer) = out { Some(buffer) } else { None };
        self.take().into_iter().filter_map(frame).collect()
    }

    /// The levels of the flat frames that left since the last call.
    #[track_caller]
    pub fn levels(&self) -> Vec<u8> {
        let caps = self.output_caps();
        self.frames().iter().map(|frame| level(frame, &caps)).collect()
    }

    /// All that left since the last call, in words: frame numbers and event names.
    pub fn trace(&self) -> String {
        let name = |out: Out| match out {
            Out::Frame(buffer) => (buffer.pts().unwrap().nseconds() / FRAME.nseconds()).to_string(),
            Out::Event(event) => match event.view() {
                gst::EventView::Caps(caps) => format!("caps-{}", info(&caps.caps_owned()).width()),
                gst::EventView::CustomDownstream(custom) => custom.structure().unwrap().name().to_string(),
                _ => event.type_().name().to_string(),
            },
        };
        self.take().into_iter().map(name).collect::<Vec<_>>().join(" ")
    }

    pub fn output_caps(&self) -> gst::Caps {
        self.element.static_pad("src").unwrap().current_caps().expect("the source pad has caps")
    }

    /// The text of the error on the bus.
    pub fn error(&self) -> Option<String> {
        self.bus.pop_filtered(&[gst::MessageType::Error]).map(|message| error_text(&message))
    }

    pub fn stats(&self) -> gst::Structure {
        self.element.property("stats")
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.error(), None, "an error was left on the bus");
        }
    }
}

pub fn error_text(message: &gst::Message) -> String {
    match message.view() {
        gst::MessageView::Error(err) => err.error().message().to_string(),
        _ => panic!("not an error: {message:?}"),
    }
}

/// A pipeline that ends with its scope.
pub struct Pipeline(pub gst::Pipeline);

impl std::ops::Deref for Pipeline {
    type Target = gst::Pipeline;

    fn deref(&self) -> &gst::Pipeline {
        &self.0
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        let _ = self.0.set_state(gst::State::Null);
    }
}

impl Pipeline {
    /// A pipeline from a description as for `gst-launch-1.0`.
    #[track_caller]
    pub fn new(description: &str) -> Self {
        init();
        let bin = gst::parse::launch(description).unwrap_or_else(|err| panic!("{description}: {err}"));
        Self(bin.downcast().unwrap())
    }

    /// Plays to the end.
    #[track_caller]
    pub fn run(&self) {
        self.run_within(TIMEOUT);
    }

    /// Plays to the end, which comes within `time`.
    #[track_caller]
    pub fn run_within(&self, time: gst::ClockTime) {
        self.set_state(gst::State::Playing).unwrap_or_else(|_| panic!("{:?}", self.error()));
        self.wait_eos_within(time);
        self.set_state(gst::State::Null).unwrap();
    }

    #[track_caller]
    pub fn wait_eos(&self) {
        self.wait_eos_within(TIMEOUT);
    }

    #[track_caller]
    fn wait_eos_within(&self, time: gst::ClockTime) {
        let types = [gst::MessageType::Eos, gst::MessageType::Error];
        let message = self.bus().unwrap().timed_pop_filtered(time, &types).expect("the pipeline does not end");
        assert_eq!(message.type_(), gst::MessageType::Eos, "{message:?}");
    }

    /// Waits until the pipeline is in the state that was asked for last.
    #[track_caller]
    pub fn settle(&self) {
        let (result, _, _) = self.state(TIMEOUT);
        result.unwrap_or_else(|_| panic!("{:?}", self.error()));
    }

    pub fn error(&self) -> Option<String> {
        self.bus().unwrap().pop_filtered(&[gst::MessageType::Error]).map(|message| error_text(&message))
    }

    /// The error that ends the pipeline.
    #[track_caller]
    pub fn run_to_error(&self) -> String {
        let _ = self.set_state(gst::State::Playing);
        let types = [gst::MessageType::Eos, gst::MessageType::Error];
        let message = self.bus().unwrap().timed_pop_filtered(TIMEOUT, &types).expect("neither error nor end");
        assert_eq!(message.type_(), gst::MessageType::Error, "the pipeline ended without an error");
        error_text(&message)
    }

    /// Counts what passes the sink pad of an element.
    pub fn count(&self, element: &str) -> Arc<Mutex<Vec<gst::Buffer>>> {
        let seen = Arc::<Mutex<Vec<gst::Buffer>>>::default();
        let pad = self.by_name(element).unwrap().static_pad("sink").unwrap();
        let inner = Arc::clone(&seen);
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            let mut frame = gst::Buffer::new();
            let what = gst::BufferCopyFlags::FLAGS | gst::BufferCopyFlags::TIMESTAMPS;
            info.buffer().unwrap().copy_into(frame.get_mut().unwrap(), what, ..).unwrap();
            inner.lock().unwrap().push(frame);
            gst::PadProbeReturn::Ok
        })
        .unwrap();
        seen
    }
}
