//! One `#[test]` for each backend, address family and path that a test is mounted on. A test is a
//! plain function of its [`Site`]; the macros below list the names at the end of each module.

use crate::site::{Family, Io, Path, Site, report_skip};
use crate::turn::{self, Turn};

/// Runs one mounted test, or skips it with a reason.
pub(crate) fn run(
    name: &str,
    (io, path, family): (Io, Path, Family),
    turn: Turn,
    test: impl FnOnce(&Site),
) {
    let _turn = turn::wait_for(turn);
    match Site::new(io, path, family) {
        Ok(site) => test(&site),
        Err(reason) => report_skip(name, &reason),
    }
}

/// Mounts tests once for each backend, on IPv4 loopback.
macro_rules! on_each_io {
    ($($test:ident),+ $(,)?) => {
        $crate::mount::mount_one!(uring, Uring, Loopback, V4, Shared, $($test),+);
        $crate::mount::mount_one!(poll, Poll, Loopback, V4, Shared, $($test),+);
    };
}

/// Mounts tests once for each backend, on a veth pair with IPv4.
macro_rules! on_each_io_over_veth {
    ($($test:ident),+ $(,)?) => {
        $crate::mount::mount_one!(uring_veth, Uring, Veth, V4, Shared, $($test),+);
        $crate::mount::mount_one!(poll_veth, Poll, Veth, V4, Shared, $($test),+);
    };
}

/// Mounts tests for each backend, family and path.
macro_rules! everywhere {
    ($($test:ident),+ $(,)?) => {
        $crate::mount::mount_one!(uring_loopback_v4, Uring, Loopback, V4, Shared, $($test),+);
        $crate::mount::mount_one!(uring_loopback_v6, Uring, Loopback, V6, Shared, $($test),+);
        $crate::mount::mount_one!(uring_veth_v4, Uring, Veth, V4, Shared, $($test),+);
        $crate::mount::mount_one!(uring_veth_v6, Uring, Veth, V6, Shared, $($test),+);
        $crate::mount::mount_one!(poll_loopback_v4, Poll, Loopback, V4, Shared, $($test),+);
        $crate::mount::mount_one!(poll_loopback_v6, Poll, Loopback, V6, Shared, $($test),+);
        $crate::mount::mount_one!(poll_veth_v4, Poll, Veth, V4, Shared, $($test),+);
        $crate::mount::mount_one!(poll_veth_v6, Poll, Veth, V6, Shared, $($test),+);
    };
}

/// Mounts tests for each backend and family on a veth pair, while no other test runs.
macro_rules! alone_over_veth {
    ($($test:ident),+ $(,)?) => {
        $crate::mount::mount_one!(uring_v4, Uring, Veth, V4, Alone, $($test),+);
        $crate::mount::mount_one!(uring_v6, Uring, Veth, V6, Alone, $($test),+);
        $crate::mount::mount_one!(poll_v4, Poll, Veth, V4, Alone, $($test),+);
        $crate::mount::mount_one!(poll_v6, Poll, Veth, V6, Alone, $($test),+);
    };
}

/// Mounts tests on a bad way between two namespaces. The kernels of many machines have no netem;
/// those of `cargo xtask lab kernels` do, and there these tests run.
macro_rules! over_a_bad_way {
    ($($test:ident),+ $(,)?) => {
        $crate::mount::mount_ignored!(uring_v4, Uring, Bridge, V4, Shared, $($test),+);
        $crate::mount::mount_ignored!(poll_v4, Poll, Bridge, V4, Shared, $($test),+);
        $crate::mount::mount_ignored!(poll_v6, Poll, Bridge, V6, Shared, $($test),+);
    };
}

/// Mounts tests in one module for one backend, family and path.
macro_rules! mount_one {
    ($($words:tt)+) => { $crate::mount::mount_as!(test, $($words)+); };
}

/// The same, for tests that run only where somebody asks for them.
macro_rules! mount_ignored {
    ($($words:tt)+) => {
        $crate::mount::mount_as!(
            cfg_attr(all(), test, ignore = "needs netem: cargo xtask lab kernels"),
            $($words)+
        );
    };
}

macro_rules! mount_as {
    (
        $attribute:meta,
        $module:ident, $io:ident, $path:ident, $family:ident, $turn:ident, $($test:ident),+
    ) => {
        mod $module {
            $(
                #[$attribute]
                fn $test() {
                    $crate::mount::run(
                        concat!(module_path!(), "::", stringify!($test)),
                        (
                            $crate::site::Io::$io,
                            $crate::site::Path::$path,
                            $crate::site::Family::$family,
                        ),
                        $crate::turn::Turn::$turn,
                        super::$test,
                    );
                }
            )+
        }
    };
}

pub(crate) use {mount_as, mount_ignored, mount_one};
