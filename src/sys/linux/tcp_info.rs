//! What the kernel knows of one connection: `struct tcp_info` (include/uapi/linux/tcp.h). A socket
//! flows in, bytes flow out: the kernel copies as much as it has and we ask for, and says how much
//! that was.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::sync::OnceLock;

use socket2::Socket;

use crate::tcp_info::{Kernel, ROOM, Raw};

/// Reads it by getsockopt(2).
pub(in crate::sys) fn tcp_info(socket: &Socket) -> io::Result<Raw> {
    let mut bytes = MaybeUninit::<[u8; ROOM]>::zeroed();
    let mut length = libc::socklen_t::try_from(ROOM).expect("a few hundred bytes");
    // SAFETY: the pointers are to `length` writable bytes and to their number, both alive until
    // after the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            bytes.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroed before, and any byte is a valid u8.
    let bytes = unsafe { bytes.assume_init() };
    Ok(Raw::filled(bytes, usize::try_from(length).unwrap_or(0), kernel()))
}

/// The running kernel's release (uname(2)), such as `6.18.44`.
pub(in crate::sys) fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Its version; `None` if the release is none.
fn kernel() -> Option<Kernel> {
    static KERNEL: OnceLock<Option<Kernel>> = OnceLock::new();
    *KERNEL.get_or_init(|| Kernel::parse(&kernel_release()))
}
