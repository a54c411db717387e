//! seccomp: the system calls that the program still makes in, all others answered with EPERM.
//!
//! Refused and not killed: which calls a C library makes is its own business and changes with its
//! versions and with what it loads to look names up. A call that is missing here must not end a
//! program that measures for months; it fails, as with any other lack of a privilege, and is told.
//!
//! Operations of an io_uring are not system calls, and no filter sees them. So no new ring can be
//! made, and ours were restricted when they were (`uring::restrict`).

use std::collections::BTreeMap;

use libc::c_long;
use rustix::thread::set_no_new_privs;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, sock_filter,
};

use crate::sys::sandbox::Permits;

/// Why this kernel has no filter for us, if it has none.
pub(in crate::sys) fn gap() -> Option<String> {
    let action = libc::SECCOMP_RET_ERRNO;
    // SAFETY: the kernel reads one number, which lives until after the call.
    let answer = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action)
    };
    (answer < 0).then(|| why(&std::io::Error::last_os_error()))
}

/// Restricts every thread of the process.
pub(in crate::sys) fn restrict(permits: &Permits) -> Result<(), String> {
    let failed = |error: BackendError| format!("seccomp: {error}");
    // Of two answers the kernel takes the stricter one. The last one forbids a third.
    let programs = [unknown().map_err(failed)?, allowed(permits).map_err(failed)?];
    set_no_new_privs(true).map_err(|error| why(&error.into()))?;
    programs.iter().try_for_each(|program| install(program))
}

/// The calls that are allowed, as a program.
fn allowed(permits: &Permits) -> Result<BpfProgram, BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let mut plain = |calls: &[c_long]| rules.extend(calls.iter().map(|&call| (call, Vec::new())));
    plain(&OF_EVERYBODY);
    plain(&OF_FILES);
    plain(&OF_SOCKETS);
    plain(&OF_THIS_CPU);
    if permits.connects || permits.names || std::env::var_os("NOTIFY_SOCKET").is_some() {
        plain(&[libc::SYS_connect]);
    }
    // A module that the C library loads for a lookup brings code.
    if permits.names && !cfg!(target_feature = "crt-static") {
        plain(&[libc::SYS_mmap, libc::SYS_mprotect]);
    } else {
        let no_code = || rule(&[(2, SeccompCmpOp::MaskedEq(word(libc::PROT_EXEC)), 0)]);
        rules.insert(libc::SYS_mmap, vec![no_code()?]);
        rules.insert(libc::SYS_mprotect, vec![no_code()?]);
    }
    // Nothing is opened to be written, also where Landlock does not know truncating (Linux 6.2).
    let read_only = |flags| {
        let written = word(libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC);
        rule(&[(flags, SeccompCmpOp::MaskedEq(written), word(libc::O_RDONLY))])
    };
    rules.insert(libc::SYS_openat, vec![read_only(2)?]);
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_open, vec![read_only(1)?]);
    // Programs are attached to interfaces that come, and counters are read; nothing new is loaded.
    if permits.ebpf {
        let new = MAKING.map(|command| (0, SeccompCmpOp::Ne, command));
        rules.insert(libc::SYS_bpf, vec![rule(&new)?]);
    }
    // Threads, and no process.
    let thread = word(libc::CLONE_THREAD);
    rules.insert(libc::SYS_clone, vec![rule(&[(0, SeccompCmpOp::MaskedEq(thread), thread)])?]);
    // A limit may be read.
    let nothing = SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?;
    rules.insert(libc::SYS_prlimit64, vec![SeccompRule::new(vec![nothing])?]);
    // Signals to ourselves: that is how a program aborts.
    let own = u64::from(std::process::id());
    rules.insert(libc::SYS_tgkill, vec![rule(&[(0, SeccompCmpOp::Eq, own)])?]);
    // No letters into the terminal's keyboard.
    let letters =
        [(1, SeccompCmpOp::Ne, u64::from(TIOCSTI)), (1, SeccompCmpOp::Ne, u64::from(TIOCLINUX))];
    rules.insert(libc::SYS_ioctl, vec![rule(&letters)?]);
    rules.insert(libc::SYS_prctl, first_is_one_of(&PRCTLS)?);
    rules.insert(libc::SYS_socket, first_is_one_of(&FAMILIES)?);
    program(rules, SeccompAction::Errno(errno(libc::EPERM)), SeccompAction::Allow)
}

/// clone3(2) hides its flags behind a pointer. The C library falls back to clone(2) if there is
/// none, and only then.
fn unknown() -> Result<BpfProgram, BackendError> {
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    program(rules, SeccompAction::Allow, SeccompAction::Errno(errno(libc::ENOSYS)))
}

fn program(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    others: SeccompAction,
    these: SeccompAction,
) -> Result<BpfProgram, BackendError> {
    let here = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, others, these, here)?.try_into()
}

/// Holds if all of these hold: an argument's number, how its lower half is compared, and with what.
/// The kernel looks at no more of an `int`.
fn rule(conditions: &[(u8, SeccompCmpOp, u64)]) -> Result<SeccompRule, BackendError> {
    let conditions = conditions.iter().map(|(argument, by, value)| {
        SeccompCondition::new(*argument, SeccompCmpArgLen::Dword, by.clone(), *value)
    });
    SeccompRule::new(conditions.collect::<Result<_, _>>()?)
}

/// Holds if one of them does.
fn first_is_one_of(values: &[i32]) -> Result<Vec<SeccompRule>, BackendError> {
    values.iter().map(|value| rule(&[(0, SeccompCmpOp::Eq, word(*value))])).collect()
}

/// Without the mitigations that Linux before 5.16 gives to everybody with a filter: they are for
/// programs that run other people's code, and would slow every probe down.
fn install(program: &[sock_filter]) -> Result<(), String> {
    let flags = libc::SECCOMP_FILTER_FLAG_TSYNC | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| "seccomp: too many calls".to_owned())?,
        filter: program.as_ptr().cast_mut().cast(),
    };
    // SAFETY: the kernel only reads the program, whose instructions are laid out as its own
    // (`sock_filter` is repr(C)), and all of it lives until after the call.
    let answer = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    };
    match answer {
        0 => Ok(()),
        thread if thread > 0 => Err(format!("seccomp: thread {thread} has a filter of its own")),
        _ => Err(why(&std::io::Error::last_os_error())),
    }
}

fn why(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOSYS | libc::EINVAL) => {
            format!("{error}: the kernel is older than 4.17 or has no seccomp")
        }
        Some(libc::EPERM) => format!("{error}: another filter forbids seccomp; allow it there"),
        _ => error.to_string(),
    }
}

/// A constant of the C library, as the kernel compares it. None is negative.
fn word(constant: i32) -> u64 {
    u64::from(constant.unsigned_abs())
}

fn errno(number: i32) -> u32 {
    number.unsigned_abs()
}

/// Numbers that differ by the type that each C library has for them (asm-generic/ioctls.h).
const TIOCSTI: u32 = 0x5412;
const TIOCLINUX: u32 = 0x541c;

/// `BPF_MAP_CREATE`, `BPF_PROG_LOAD` and `BPF_BTF_LOAD` (include/uapi/linux/bpf.h).
const MAKING: [u64; 3] = [0, 5, 18];

/// A thread's name, how exactly it sleeps, and names of memory (`PR_SET_VMA`), which glibc gives.
const PRCTLS: [i32; 4] =
    [libc::PR_SET_NAME, libc::PR_GET_NAME, libc::PR_SET_TIMERSLACK, libc::PR_SET_VMA];

/// Lookups use `AF_UNIX` and `AF_NETLINK`, notices to systemd the former, eBPF the latter.
const FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Memory, threads, time, signals and ourselves.
const OF_EVERYBODY: [c_long; 55] = [
    libc::SYS_brk,
    libc::SYS_capget,
    libc::SYS_capset,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    // Answered by the other filter.
    libc::SYS_clone3,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_get_robust_list,
    libc::SYS_getcpu,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getpriority,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_getuid,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mlock,
    libc::SYS_mremap,
    libc::SYS_msync,
    libc::SYS_munlock,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_setpriority,
    libc::SYS_sigaltstack,
    libc::SYS_sysinfo,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_gettime,
    libc::SYS_timerfd_settime,
    libc::SYS_times,
    libc::SYS_uname,
];

/// Reading, and waiting for what can be read. Which files, Landlock says.
const OF_FILES: [c_long; 40] = [
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fadvise64,
    libc::SYS_fcntl,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_init1,
    libc::SYS_inotify_rm_watch,
    libc::SYS_lseek,
    libc::SYS_newfstatat,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_pselect6,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_splice,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Talking to others. Which families, a rule says.
const OF_SOCKETS: [c_long; 17] = [
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_listen,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendfile,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_socketpair,
];

/// What newer CPUs do without, and older C libraries still call.
#[cfg(target_arch = "x86_64")]
const OF_THIS_CPU: [c_long; 15] = [
    libc::SYS_access,
    libc::SYS_arch_prctl,
    libc::SYS_dup2,
    libc::SYS_epoll_create,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd,
    libc::SYS_getdents,
    libc::SYS_getrlimit,
    libc::SYS_lstat,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_select,
    libc::SYS_stat,
    libc::SYS_time,
];

#[cfg(target_arch = "aarch64")]
const OF_THIS_CPU: [c_long; 0] = [];
