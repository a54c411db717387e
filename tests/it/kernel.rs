//! The system calls that no safe crate wraps: the only unsafe code of the tests. Integers and
//! buffers go in, owned descriptors and numbers come out.
#![expect(unsafe_code, reason = "packet sockets, unshare and the parent-death signal need it")]

use std::fs::File;
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr::from_mut;

use rttscope::tcp_info::Kernel;

/// One frame from a packet socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StampedFrame {
    /// Bytes of the frame that are in the buffer.
    pub(crate) length: usize,
    /// Kernel time, `CLOCK_REALTIME` ns; `None` if the kernel gave none.
    pub(crate) at_ns: Option<u64>,
    /// True for a frame that this host sent, false for one that arrived.
    pub(crate) outgoing: bool,
}

/// Moves the calling thread into a new, empty network namespace.
pub(crate) fn unshare_network() -> io::Result<()> {
    // SAFETY: `unshare` takes no pointer; a network namespace changes no memory of this process.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) }).map(drop)
}

/// Has the child killed when the thread that spawned it ends, so that a killed test run leaves
/// no process behind. Spawn it from a thread that lives as long as the test process.
pub(crate) fn die_with_parent(command: &mut Command) {
    // SAFETY: the closure makes one async-signal-safe system call and touches no memory.
    unsafe { command.pre_exec(set_parent_death_signal) };
}

/// Has Landlock and seccomp(2) answered with `EPERM` in the child, as some sandboxes do.
pub(crate) fn forbid_sandbox(command: &mut Command) {
    // SAFETY: the closure makes async-signal-safe system calls and allocates nothing.
    unsafe { command.pre_exec(install_sandbox_filter) };
}

/// Has io_uring_setup(2) answered with `EPERM` in the child, as container runtimes do by default.
pub(crate) fn forbid_io_uring(command: &mut Command) {
    // SAFETY: the closure makes two async-signal-safe system calls and allocates nothing.
    unsafe { command.pre_exec(install_filter) };
}

/// Gives the child this descriptor as its number 3, the first that systemd passes.
pub(crate) fn pass_as_first(command: &mut Command, fd: OwnedFd) {
    let install = move || {
        // dup2(2) of a descriptor to itself would leave it to be closed.
        let copied = match fd.as_raw_fd() {
            // SAFETY: `fcntl` with `F_SETFD` takes a number and no pointer.
            3 => unsafe { libc::fcntl(3, libc::F_SETFD, 0) },
            // SAFETY: `dup2` takes numbers; the child's number 3 is nobody's before it starts.
            number => unsafe { libc::dup2(number, 3) },
        };
        check(copied).map(drop)
    };
    // SAFETY: the closure makes one async-signal-safe system call and allocates nothing.
    unsafe { command.pre_exec(install) };
}

/// Has setsockopt(2) answered with `EPERM` in the child where it asks for stamps.
pub(crate) fn forbid_stamps(command: &mut Command) {
    // SAFETY: the closure makes two async-signal-safe system calls and allocates nothing.
    unsafe { command.pre_exec(install_stamps_filter) };
}

/// Why this kernel refuses io_uring to us, if it does, or is older than what we need of it.
pub(crate) fn io_uring_refusal() -> Option<io::Error> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    if Kernel::parse(&release) < Kernel::parse("5.19") {
        return Some(io::Error::new(io::ErrorKind::Unsupported, "Linux is older than 5.19"));
    }
    // struct io_uring_params is 120 bytes (include/uapi/linux/io_uring.h); zero asks for nothing.
    let mut params = [0_u64; 15];
    let entries: libc::c_long = 1;
    // SAFETY: `params` is as large as the struct that the kernel fills, and outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, entries, params.as_mut_ptr()) };
    let Ok(fd) = RawFd::try_from(fd) else { return Some(io::Error::last_os_error()) };
    if fd < 0 {
        return Some(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor, nobody else owns it.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    None
}

/// A packet socket that sees every frame of one interface, both directions, with kernel times.
pub(crate) fn packet_socket(interface_index: u32) -> io::Result<OwnedFd> {
    // Protocol 0 receives nothing until `bind` names protocol and interface together.
    // SAFETY: `socket` takes no pointer.
    let fd =
        check(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the kernel has just given us this descriptor, nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    set_option(&fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &RECEIVE_BUFFER_BYTES)?;
    set_option(&fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, &1_i32)?;

    // SAFETY: `sockaddr_ll` is plain integers, for which zero is valid.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).unwrap();
    address.sll_protocol = u16::try_from(libc::ETH_P_ALL).unwrap().to_be();
    address.sll_ifindex = i32::try_from(interface_index).unwrap();
    let length = socket_length::<libc::sockaddr_ll>();
    // SAFETY: `address` is a `sockaddr_ll` of the given length and outlives the call.
    check(unsafe { libc::bind(fd.as_raw_fd(), from_mut(&mut address).cast(), length) })?;
    Ok(fd)
}

/// The next frame; `None` if none is there. It never waits: a sleeping reader would be woken by the
/// kernel between the capture's time of a packet and the driver's, which took 10 µs of both.
pub(crate) fn receive_frame(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<Option<StampedFrame>> {
    let mut control = [0_u64; 16];
    // SAFETY: `sockaddr_ll` is plain integers, for which zero is valid.
    let mut from: libc::sockaddr_ll = unsafe { zeroed() };
    let mut iovec = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: `msghdr` is integers and pointers, for which zero is valid.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_name = from_mut(&mut from).cast();
    message.msg_namelen = socket_length::<libc::sockaddr_ll>();
    message.msg_iov = &raw mut iovec;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: every pointer in `message` leads to a live local of the length beside it.
    let received = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let Ok(length) = usize::try_from(received) else {
        let error = io::Error::last_os_error();
        return match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
            _ => Err(error),
        };
    };
    let outgoing = from.sll_pkttype == libc::PACKET_OUTGOING;
    Ok(Some(StampedFrame { length, at_ns: stamp_ns(&message), outgoing }))
}

/// A tun device of this name, whose packets have no Ethernet header; it is gone with the file.
pub(crate) fn tun(name: &str) -> io::Result<File> {
    let file = File::options().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: `ifreq` is integers and characters, for which zero is valid.
    let mut request: libc::ifreq = unsafe { zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::try_from(from).unwrap();
    }
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_TUN | libc::IFF_NO_PI).unwrap();
    // SAFETY: the file is open, and `request` is a live local of the type that this call takes.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    Ok(file)
}

/// How many frames the kernel threw away since the last call because we read too slowly.
pub(crate) fn dropped_frames(fd: &OwnedFd) -> io::Result<u32> {
    // struct tpacket_stats: packets, drops (include/uapi/linux/if_packet.h).
    let mut stats = [0_u32; 2];
    let mut length = socket_length::<[u32; 2]>();
    // SAFETY: `stats` and `length` are live locals, `length` is the size of `stats`.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            stats.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    check(result)?;
    Ok(stats[1])
}

/// The `SCM_TIMESTAMPNS` control message of a received message.
fn stamp_ns(message: &libc::msghdr) -> Option<u64> {
    // SAFETY: the kernel has filled `message`; its control buffer lives in the caller.
    let header = unsafe { libc::CMSG_FIRSTHDR(message) };
    // SAFETY: `CMSG_FIRSTHDR` gives null or a pointer to a whole header in the control buffer.
    let header_kind = unsafe { header.as_ref() }?;
    let kind = (header_kind.cmsg_level, header_kind.cmsg_type);
    if kind != (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) {
        return None;
    }
    // SAFETY: `header` is not null, see above.
    let data = unsafe { libc::CMSG_DATA(header) };
    // SAFETY: a control message of this kind carries one `timespec`; it need not be aligned.
    let time = unsafe { data.cast::<libc::timespec>().read_unaligned() };
    let seconds = u64::try_from(time.tv_sec).ok()?;
    let nanoseconds = u64::try_from(time.tv_nsec).ok()?;
    Some(seconds * 1_000_000_000 + nanoseconds)
}

fn set_parent_death_signal() -> io::Result<()> {
    // SAFETY: `PR_SET_PDEATHSIG` takes a number and no pointer.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) }).map(drop)
}

fn install_filter() -> io::Result<()> {
    let number = u32::try_from(libc::SYS_io_uring_setup).unwrap();
    install(&mut [load(0), unless_equal(number, 1), refuse(), allow()])
}

/// Landlock and seccomp(2) answered with `EPERM`.
fn install_sandbox_filter() -> io::Result<()> {
    let [landlock, seccomp] = [libc::SYS_landlock_create_ruleset, libc::SYS_seccomp]
        .map(|number| u32::try_from(number).unwrap());
    install(&mut [load(0), equal(landlock, 1), unless_equal(seccomp, 1), refuse(), allow()])
}

fn install_stamps_filter() -> io::Result<()> {
    let number = u32::try_from(libc::SYS_setsockopt).unwrap();
    // The third argument, its lower half: little-endian machines only, as all that tests run on.
    let option = 16 + 2 * 8;
    install(&mut [
        load(0),
        unless_equal(number, 4),
        load(option),
        // SO_TIMESTAMPING_OLD and _NEW (include/uapi/asm-generic/socket.h).
        equal(37, 1),
        unless_equal(65, 1),
        refuse(),
        allow(),
    ])
}

/// Loads a word of struct seccomp_data, which begins with the number of the system call.
fn load(offset: u32) -> libc::sock_filter {
    let code = u16::try_from(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS).unwrap();
    libc::sock_filter { code, jt: 0, jf: 0, k: offset }
}

/// Skips so many instructions if the word is this one.
fn equal(word: u32, skipped: u8) -> libc::sock_filter {
    let code = u16::try_from(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K).unwrap();
    libc::sock_filter { code, jt: skipped, jf: 0, k: word }
}

/// Skips so many instructions if the word is not this one.
fn unless_equal(word: u32, skipped: u8) -> libc::sock_filter {
    libc::sock_filter { jt: 0, jf: skipped, ..equal(word, 0) }
}

fn refuse() -> libc::sock_filter {
    answer(libc::SECCOMP_RET_ERRNO | u32::try_from(libc::EPERM).unwrap())
}

fn allow() -> libc::sock_filter {
    answer(libc::SECCOMP_RET_ALLOW)
}

fn answer(with: u32) -> libc::sock_filter {
    let code = u16::try_from(libc::BPF_RET | libc::BPF_K).unwrap();
    libc::sock_filter { code, jt: 0, jf: 0, k: with }
}

/// seccomp(2), filter mode; without privilege it is allowed to those who can gain none.
fn install(filter: &mut [libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(filter.len()).unwrap();
    let program = libc::sock_fprog { len, filter: filter.as_mut_ptr() };
    // SAFETY: `PR_SET_NO_NEW_PRIVS` takes numbers and no pointer.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    let mode = libc::SECCOMP_MODE_FILTER;
    // SAFETY: `program` and the filter that it points to are live locals during the call.
    check(unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) }).map(drop)
}

fn set_option<T>(fd: &OwnedFd, level: i32, name: i32, value: &T) -> io::Result<()> {
    let pointer = std::ptr::from_ref(value).cast();
    // SAFETY: `value` is a live reference and the length is that of its type.
    let result =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, pointer, socket_length::<T>()) };
    check(result).map(drop)
}

fn socket_length<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap()
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Enough for 10,000 small frames while hogs keep the reader off the CPU.
const RECEIVE_BUFFER_BYTES: i32 = 16 << 20;
