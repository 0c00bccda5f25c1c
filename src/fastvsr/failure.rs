//! Owns what can go wrong with a stream, and its mapping to GStreamer's errors: what went wrong for people, and nothing that
//! a program must parse.

use std::collections::TryReserveError;

use crate::engine::Error;

/// Why the element cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The engine's reason.
    #[error(transparent)]
    Engine(#[from] Error),
    /// The buffer cannot be mapped, or does not hold the frame that its caps announce.
    #[error("a buffer does not hold the frame that its caps describe: {0}")]
    Buffer(#[from] glib::BoolError),
    /// There is no memory for a frame.
    #[error("there is no memory for a frame: {0}; make the frames smaller or free memory")]
    NoMemory(#[from] TryReserveError),
}

impl Failure {
    /// Whether nothing is wrong: the pipeline flushes, or stops.
    pub(super) fn is_cancelled(&self) -> bool {
        matches!(self, Self::Engine(Error::Cancelled))
    }

    /// The error as GStreamer classifies it.
    pub(super) fn message(&self) -> gst::ErrorMessage {
        match self {
            Self::Engine(err) => match err {
                Error::RuntimeMissing { .. } | Error::RuntimeUnusable { .. } | Error::RuntimeMismatch { .. } => {
                    gst::error_msg!(gst::LibraryError::Init, ("{self}"))
                }
                Error::Provider { .. } => gst::error_msg!(gst::LibraryError::Settings, ("{self}")),
                Error::Model(_) | Error::Graph { .. } => gst::error_msg!(gst::ResourceError::NotFound, ("{self}")),
                Error::Memory { .. } => gst::error_msg!(gst::ResourceError::Settings, ("{self}")),
                Error::Signature { .. } => gst::error_msg!(gst::StreamError::WrongType, ("{self}")),
                _ => gst::error_msg!(gst::StreamError::Failed, ("{self}")),
            },
            Self::Buffer(_) => gst::error_msg!(gst::StreamError::Format, ("{self}")),
            Self::NoMemory(_) => gst::error_msg!(gst::ResourceError::NoSpaceLeft, ("{self}")),
        }
    }
}
