//! Receive buffers lent to the kernel: a ring of provided buffers (io_uring_register(2),
//! `IORING_REGISTER_PBUF_RING`, Linux 5.19). The kernel picks a buffer only when data is there, so
//! ten thousand idle connections cost no receive buffer at all.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;
use rustix::mm::{MapFlags, ProtFlags};

/// A group of buffers of a ring, all of one size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    /// Its number.
    pub(super) number: u16,
    /// How many there are; a power of two. More receives than this in one batch are armed again
    /// and find their data still in the socket.
    pub(super) buffers: u16,
    /// How much each holds.
    pub(super) buffer_bytes: usize,
}

/// The ring and its buffers, in one mapping: entries first, buffers behind.
#[derive(Debug)]
pub(super) struct BufferRing {
    base: NonNull<u8>,
    group: Group,
    /// Our copy of the ring's tail, which only we advance.
    tail: u16,
}

impl BufferRing {
    /// Maps and registers a ring of these buffers.
    ///
    /// # Errors
    /// `EINVAL` before Linux 5.19.
    pub(super) fn register(submitter: &Submitter<'_>, group: Group) -> io::Result<Self> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh private anonymous mapping aliases nothing.
        let base = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                mapping_bytes(group),
                prot,
                MapFlags::PRIVATE,
            )
        }?;
        let base = NonNull::new(base.cast()).expect("a successful mmap is not null");
        let mut ring = Self { base, group, tail: 0 };
        let address = base.as_ptr().expose_provenance() as u64;
        // SAFETY: the mapping is page-aligned, holds an entry for each buffer, and outlives the
        // io_uring: `Uring` declares its ring before this field and so drops it first.
        unsafe { submitter.register_buf_ring_with_flags(address, group.buffers, group.number, 0) }?;
        for buffer in 0..group.buffers {
            ring.give_back(buffer);
        }
        Ok(ring)
    }

    /// The first `bytes` bytes of a buffer that the kernel has filled.
    pub(super) fn filled(&self, buffer: u16, bytes: usize) -> &[u8] {
        let bytes = bytes.min(self.group.buffer_bytes);
        let start = self.buffer_start(buffer);
        // SAFETY: the buffer lies inside the mapping, is initialised (mapped zeroed, then written
        // by the kernel), and the kernel does not touch it before `give_back`, which needs `&mut`.
        unsafe { std::slice::from_raw_parts(start, bytes) }
    }

    /// Lends a buffer to the kernel (again).
    pub(super) fn give_back(&mut self, buffer: u16) {
        let slot = usize::from(self.tail & (self.group.buffers - 1));
        let address = self.buffer_start(buffer).expose_provenance() as u64;
        let entries = self.base.as_ptr().cast::<BufRingEntry>();
        // SAFETY: the slot is below the number of buffers, so the entry lies inside the mapping.
        let entry = unsafe { entries.add(slot) };
        // SAFETY: the kernel does not read a slot beyond the tail, so nobody else accesses it.
        let entry = unsafe { &mut *entry };
        entry.set_addr(address);
        entry.set_len(u32::try_from(self.group.buffer_bytes).expect("a buffer is a few KiB"));
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: `entries` is the address of the ring's first entry.
        let tail = unsafe { BufRingEntry::tail(entries) };
        // SAFETY: the tail is an aligned u16 inside the mapping that only we write.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        // Release: the kernel must see the entry before the tail that makes it valid.
        tail.store(self.tail, Ordering::Release);
    }

    fn buffer_start(&self, buffer: u16) -> *mut u8 {
        let Group { buffers, buffer_bytes, .. } = self.group;
        let offset = entries_bytes(buffers) + usize::from(buffer & (buffers - 1)) * buffer_bytes;
        // SAFETY: the offset is below `mapping_bytes`.
        unsafe { self.base.as_ptr().add(offset) }
    }
}

impl Drop for BufferRing {
    fn drop(&mut self) {
        // SAFETY: we made this mapping with this length, and no slice of it outlives `self`.
        let unmapped =
            unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), mapping_bytes(self.group)) };
        debug_assert!(unmapped.is_ok(), "unmapping our own mapping");
    }
}

fn entries_bytes(buffers: u16) -> usize {
    size_of::<BufRingEntry>() * usize::from(buffers)
}

fn mapping_bytes(group: Group) -> usize {
    entries_bytes(group.buffers) + usize::from(group.buffers) * group.buffer_bytes
}
