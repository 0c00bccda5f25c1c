//! Any stream at all: frames of any time, any events between them, caps, segments and streams that change, flushes, ends,
//! restarts and late frames. As many come out as went in, in order, each with what it carried, and every event where it was.

mod common;

use common::*;
use gst::prelude::*;
use gst_video::{VideoFormat, VideoFrameExt, VideoFrameRef, VideoInfo};
use proptest::prelude::*;

const FORMATS: [VideoFormat; 5] =
    [VideoFormat::Rgb, VideoFormat::Bgra, VideoFormat::I420, VideoFormat::Nv12, VideoFormat::Gray8];
const SIZES: [(u32, u32); 3] = [(8, 4), (5, 7), (16, 16)];
/// The first is that of streams whose frames have no rhythm.
const RATES: [i32; 4] = [0, 25, 50, 24];
const SPEEDS: [f64; 5] = [1.0, 2.0, 0.5, -1.0, -2.0];

/// One step of a stream.
#[derive(Debug, Clone)]
enum Step {
    Frame {
        pts: Option<u64>,
        duration: Option<u64>,
        flags: gst::BufferFlags,
    },
    Gap,
    Custom,
    Tag,
    Segment {
        speed: usize,
        start: u64,
    },
    Caps {
        format: usize,
        size: usize,
        rate: usize,
    },
    Stream,
    /// The sink finds the next frames late.
    Late,
    Flush {
        reset_time: bool,
    },
    Restart,
    Drain,
    Eos,
}

fn step() -> impl Strategy<Value = Step> {
    let time = || prop::option::weighted(0.8, 0u64..10_000_000_000);
    let flag =
        |flag| prop::bool::weighted(0.07).prop_map(move |set| if set { flag } else { gst::BufferFlags::empty() });
    let flags = (flag(gst::BufferFlags::DISCONT), flag(gst::BufferFlags::GAP), flag(gst::BufferFlags::DELTA_UNIT));
    let flags = flags.prop_map(|(discont, gap, delta)| discont | gap | delta);
    prop_oneof![
        40 => (time(), time(), flags).prop_map(|(pts, duration, flags)| Step::Frame { pts, duration, flags }),
        2 => Just(Step::Gap),
        3 => Just(Step::Custom),
        2 => Just(Step::Tag),
        3 => (0..SPEEDS.len(), 0u64..5).prop_map(|(speed, start)| Step::Segment { speed, start }),
        4 => (0..FORMATS.len(), 0..SIZES.len(), 0..RATES.len())
            .prop_map(|(format, size, rate)| Step::Caps { format, size, rate }),
        1 => Just(Step::Stream),
        2 => Just(Step::Late),
        2 => any::<bool>().prop_map(|reset_time| Step::Flush { reset_time }),
        1 => Just(Step::Restart),
        1 => Just(Step::Drain),
        1 => Just(Step::Eos),
    ]
}

/// What frames are part of: the last sticky events before them.
#[derive(Debug, Clone, Default, PartialEq)]
struct Context {
    caps: Option<VideoInfo>,
    segment: String,
    stream: String,
}

/// What went in, and must come out.
#[derive(Debug, PartialEq)]
enum Item {
    Frame { carried: String, level: u8, context: Box<Context> },
    Event(String),
}

fn describe(segment: &gst::Segment) -> String {
    format!("{:?}", (segment.rate(), segment.start(), segment.stop(), segment.time()))
}

/// Everything but the pixels that a frame carries, regions in pixels of the input.
fn carried(buffer: &gst::Buffer, scale: u32) -> String {
    let times: Vec<_> = buffer.iter_meta::<gst::ReferenceTimestampMeta>().map(|meta| meta.timestamp()).collect();
    let regions: Vec<_> = buffer
        .iter_meta::<gst_video::VideoRegionOfInterestMeta>()
        .map(|meta| {
            let (x, y, width, height) = meta.rect();
            [x, y, width, height].map(|length| f64::from(length) / f64::from(scale))
        })
        .collect();
    let stamps = (buffer.pts(), buffer.dts(), buffer.duration(), buffer.offset(), buffer.offset_end());
    format!("{stamps:?} {:?} {times:?} {regions:?}", buffer.flags())
}

/// A frame of one level, neutral in colour.
fn grey(info: &VideoInfo, level: u8) -> gst::Buffer {
    let mut buffer = gst::Buffer::with_size(info.size()).unwrap();
    {
        let mut frame = VideoFrameRef::from_buffer_ref_writable(buffer.get_mut().unwrap(), info).unwrap();
        for plane in 0..frame.n_planes() {
            frame.plane_data_mut(plane).unwrap().fill(if plane == 0 { level } else { 128 });
        }
    }
    buffer
}

struct Stream {
    rig: Rig,
    scale: u32,
    input: VideoInfo,
    /// What the frames that come are part of.
    context: Context,
    /// What the frames that leave are part of, as far as that was seen.
    seen: Context,
    pushed: Vec<Item>,
    /// How much of it was drained: a flush can no longer take it back.
    safe: usize,
    ended: bool,
    /// The step that last took the element to READY.
    restarted: usize,
}

impl Stream {
    fn new(rig: Rig, scale: u32) -> Self {
        let input = info(&rgb(8, 4));
        let mut stream = Self {
            rig,
            scale,
            input,
            context: Context::default(),
            seen: Context::default(),
            pushed: Vec::new(),
            safe: 0,
            ended: false,
            restarted: 0,
        };
        stream.begin();
        stream
    }

    /// The sticky events with which a stream begins.
    fn begin(&mut self) {
        self.send_stream("first");
        self.send_caps();
        self.send_segment(1.0, 0);
        self.rig.take();
        self.seen = self.context.clone();
    }

    fn send_stream(&mut self, name: &str) {
        assert!(self.rig.event(gst::event::StreamStart::new(name)));
        self.context.stream = name.into();
    }

    fn send_caps(&mut self) {
        assert!(self.rig.event(gst::event::Caps::new(&self.input.to_caps().unwrap())));
        let (width, height) = (self.input.width() * self.scale, self.input.height() * self.scale);
        let output = VideoInfo::builder(self.input.format(), width, height).fps(self.input.fps()).build().unwrap();
        self.context.caps = Some(output);
    }

    fn send_segment(&mut self, speed: f64, start: u64) {
        let mut segment = gst::FormattedSegment::<gst::ClockTime>::new();
        segment.set_rate(speed);
        segment.set_start(FRAME * start);
        segment.set_time(FRAME * start);
        segment.set_stop(gst::ClockTime::from_seconds(100));
        assert!(self.rig.event(gst::event::Segment::new(&segment)));
        self.context.segment = describe(segment.upcast_ref());
    }

    fn event(&mut self, event: gst::Event, name: String) {
        assert!(self.rig.event(event));
        self.pushed.push(Item::Event(name));
    }

    /// All that left since the last call.
    fn taken(&mut self) -> Vec<Item> {
        let mut items = Vec::new();
        for out in self.rig.take() {
            match out {
                Out::Frame(buffer) => {
                    let info = self.seen.caps.as_ref().expect("caps come before frames");
                    let level = plane(&buffer, info, 0);
                    let (low, high) = (level.iter().min().unwrap(), level.iter().max().unwrap());
                    assert!(high - low <= 1, "not flat: {low} to {high}");
                    let (carried, context) = (carried(&buffer, self.scale), Box::new(self.seen.clone()));
                    items.push(Item::Frame { carried, level: *low, context });
                }
                Out::Event(event) => match event.view() {
                    gst::EventView::Caps(caps) => {
                        let caps = info(&caps.caps_owned());
                        let output = VideoInfo::builder(caps.format(), caps.width(), caps.height());
                        self.seen.caps = Some(output.fps(caps.fps()).build().unwrap());
                    }
                    gst::EventView::Segment(segment) => self.seen.segment = describe(segment.segment()),
                    gst::EventView::StreamStart(start) => self.seen.stream = start.stream_id().into(),
                    gst::EventView::Gap(gap) => items.push(Item::Event(format!("gap {}", gap.get().0))),
                    gst::EventView::Tag(tag) => {
                        let title = tag.tag().get::<gst::tags::Title>().unwrap().get().to_string();
                        // GStreamer 1.26 sends tags of before a restart again; 1.22 does not.
                        let step: usize = title.trim_start_matches("title ").parse().unwrap();
                        if step >= self.restarted || gst::version() < (1, 26, 0, 0) {
                            items.push(Item::Event(title));
                        }
                    }
                    gst::EventView::Eos(_) => items.push(Item::Event("eos".into())),
                    gst::EventView::CustomDownstream(custom) => {
                        items.push(Item::Event(custom.structure().unwrap().name().to_string()));
                    }
                    _ => {}
                },
            }
        }
        items
    }

    /// A flush or a restart: what left before is the beginning of what came, and of the rest nothing leaves any more but
    /// the events that `survives` says.
    fn cut(&mut self, survives: impl Fn(&Item) -> bool, how: impl FnOnce(&mut Rig)) -> Result<(), TestCaseError> {
        let out = self.taken();
        prop_assert!((self.safe..=self.pushed.len()).contains(&out.len()), "{} of {}", out.len(), self.pushed.len());
        let rest = self.pushed.split_off(out.len());
        same(&out, &self.pushed)?;
        how(&mut self.rig);
        same(&self.taken(), &rest.into_iter().filter(survives).collect::<Vec<_>>())?;
        self.pushed.clear();
        (self.safe, self.ended) = (0, false);
        Ok(())
    }

    fn step(&mut self, n: usize, step: &Step) -> Result<(), TestCaseError> {
        // Only these let a pad take data again.
        if self.ended && !matches!(step, Step::Flush { .. } | Step::Restart | Step::Stream) {
            return Ok(());
        }
        // Frames before these do not wait for those after them.
        let drains = matches!(step, Step::Gap | Step::Segment { .. } | Step::Stream | Step::Drain);
        if drains {
            self.safe = self.pushed.len();
        }
        match step {
            Step::Frame { pts, duration, flags } => {
                let level = 20 + 3 * n as u8;
                let mut buffer = grey(&self.input, level);
                stamp(&mut buffer, n as u64);
                let frame = buffer.make_mut();
                frame.set_pts(pts.map(gst::ClockTime::from_nseconds));
                frame.set_duration(duration.map(gst::ClockTime::from_nseconds));
                frame.set_flags(*flags);
                let clock = gst::Caps::new_empty_simple("timestamp/x-test");
                gst::ReferenceTimestampMeta::add(frame, &clock, FRAME * n as u64, None);
                gst_video::VideoRegionOfInterestMeta::add(frame, "face", (1, n as u32, 2, 3));
                if flags.contains(gst::BufferFlags::DISCONT) {
                    self.safe = self.pushed.len();
                }
                let context = Box::new(self.context.clone());
                self.pushed.push(Item::Frame { carried: carried(&buffer, 1), level, context });
                prop_assert_eq!(self.rig.push(buffer), Ok(gst::FlowSuccess::Ok));
            }
            Step::Gap => {
                let time = FRAME * n as u64;
                self.event(gst::event::Gap::new(time, None), format!("gap {time}"));
            }
            Step::Custom => {
                let name = format!("event-{n}");
                self.event(gst::event::CustomDownstream::new(gst::Structure::new_empty(&name)), name);
            }
            Step::Tag => {
                let (name, mut tags) = (format!("title {n}"), gst::TagList::new());
                tags.get_mut().unwrap().add::<gst::tags::Title>(&name.as_str(), gst::TagMergeMode::Replace);
                self.event(gst::event::Tag::new(tags), name);
            }
            Step::Segment { speed, start } => self.send_segment(SPEEDS[*speed], *start),
            Step::Caps { format, size, rate } => {
                let (width, height) = SIZES[*size];
                let fps = gst::Fraction::new(RATES[*rate], 1);
                let input = VideoInfo::builder(FORMATS[*format], width, height).fps(fps).build().unwrap();
                // Caps that change nothing hold nothing up either.
                if input.to_caps().unwrap() != self.input.to_caps().unwrap() {
                    self.safe = self.pushed.len();
                }
                self.input = input;
                self.send_caps();
            }
            Step::Stream => {
                self.send_stream(&format!("stream {n}"));
                self.send_segment(1.0, 0);
                self.ended = false;
            }
            Step::Late => {
                let time = gst::ClockTime::from_seconds(5);
                self.rig.harness.push_upstream_event(gst::event::Qos::new(gst::QOSType::Underflow, 2.0, 0, time));
            }
            Step::Flush { reset_time } => {
                // Tags are sticky: pads keep them.
                let is_tag = |item: &Item| matches!(item, Item::Event(name) if name.starts_with("title"));
                self.cut(is_tag, |rig| {
                    assert!(rig.event(gst::event::FlushStart::new()));
                    assert!(rig.event(gst::event::FlushStop::new(*reset_time)));
                })?;
                self.send_segment(1.0, 0);
            }
            Step::Restart => {
                self.cut(
                    |_| false,
                    |rig| {
                        rig.element.set_state(gst::State::Ready).unwrap();
                        rig.element.set_state(gst::State::Playing).unwrap();
                    },
                )?;
                self.restarted = n;
                self.begin();
            }
            Step::Drain => {
                let pad = self.rig.element.static_pad("sink").unwrap();
                prop_assert!(pad.query(&mut gst::query::Drain::new()));
            }
            Step::Eos => {
                self.event(gst::event::Eos::new(), "eos".into());
                (self.safe, self.ended) = (self.pushed.len(), true);
            }
        }
        Ok(())
    }
}

/// Levels may be one off where chroma is between.
fn same(got: &[Item], expected: &[Item]) -> Result<(), TestCaseError> {
    prop_assert_eq!(got.len(), expected.len(), "{:#?}\nexpected {:#?}", got, expected);
    for (got, expected) in got.iter().zip(expected) {
        match (got, expected) {
            (Item::Frame { carried: a, level: x, context: s }, Item::Frame { carried: b, level: y, context: t }) => {
                prop_assert_eq!((a, s), (b, t));
                prop_assert!(x.abs_diff(*y) <= 1, "{} is not {}: {}", x, y, b);
            }
            _ => prop_assert_eq!(got, expected),
        }
    }
    Ok(())
}

fn check(model: &str, scale: u32, window: u32, policy: &str, steps: &[Step]) -> Result<(), TestCaseError> {
    let element = fastvsr(model, window);
    element.set_property_from_str("on-overload", policy);
    element.set_property("qos", policy != "wait");
    element.set_property("scale", scale);
    let mut stream = Stream::new(Rig::without_caps(&element), scale);
    for (n, one) in steps.iter().enumerate() {
        stream.step(n, one)?;
    }
    stream.step(steps.len(), &Step::Eos)?;
    let out = stream.taken();
    same(&out, &stream.pushed)?;
    let stats = stream.rig.stats();
    prop_assert!(stats.get::<u64>("frames-out").unwrap() <= stats.get::<u64>("frames-in").unwrap());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn any_stream_comes_out_frame_for_frame(
        (model, scale) in prop::sample::select(vec![("nearest", 4), ("nearest", 3), ("nearest", 2), ("twice", 2)]),
        window in 0u32..9,
        policy in prop::sample::select(vec!["wait", "resize"]),
        steps in prop::collection::vec(step(), 0..70),
    ) {
        check(model, scale, window, policy, &steps)?;
    }
}
