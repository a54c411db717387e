//! The waist between one writer and many readers.
