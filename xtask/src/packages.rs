//! What the tests need besides Rust and a C linker, and how to get it: by package name as root on
//! Debian and its relatives, by a clear message anywhere else.

use anyhow::{Result, bail};

use crate::shell;

/// Something that a task needs, and the Debian package that has it.
pub struct Tool {
    /// A program's name, looked for on the search path, or the whole path of a file.
    pub program: &'static str,
    /// The Debian package.
    pub package: &'static str,
    /// What does not work without it.
    pub purpose: &'static str,
}

/// What `cargo xtask test` needs.
pub const TEST: [Tool; 16] = [
    Tool { program: "ip", package: "iproute2", purpose: "tests in network namespaces" },
    Tool { program: "ss", package: "iproute2", purpose: "a second opinion of TCP_INFO" },
    Tool { program: "tc", package: "iproute2", purpose: "tests of filters left behind" },
    Tool { program: "unshare", package: "util-linux", purpose: "tests in network namespaces" },
    Tool { program: "prometheus", package: "prometheus", purpose: "a scrape by the real server" },
    Tool { program: "pkg-config", package: "pkg-config", purpose: LIBBPF },
    Tool { program: "/usr/include/libelf.h", package: "libelf-dev", purpose: LIBBPF },
    Tool { program: "/usr/include/zlib.h", package: "zlib1g-dev", purpose: LIBBPF },
    Tool { program: "setpriv", package: "util-linux", purpose: "tests with few capabilities" },
    Tool { program: "groff", package: "groff-base", purpose: "linting the man pages" },
    Tool { program: "promtool", package: "prometheus", purpose: "linting the metrics page" },
    Tool { program: "jsonnet", package: "jsonnet", purpose: "making the dashboards" },
    Tool { program: "virtualenv", package: "virtualenv", purpose: "Grafana's schema" },
    Tool { program: "chromium", package: "chromium", purpose: STATUS_PAGE },
    Tool { program: "chromedriver", package: "chromium-driver", purpose: STATUS_PAGE },
    Tool {
        program: "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
        package: "fonts-dejavu-core",
        purpose: STATUS_PAGE,
    },
];

/// What `cargo xtask deploy` needs.
pub const DEPLOY: [Tool; 6] = [
    Tool { program: "systemd-analyze", package: "systemd", purpose: DEPLOYMENT },
    Tool { program: "/lib/systemd/system/sysinit.target", package: "systemd", purpose: DEPLOYMENT },
    Tool { program: "ip", package: "iproute2", purpose: DEPLOYMENT },
    Tool { program: "unshare", package: "util-linux", purpose: DEPLOYMENT },
    Tool { program: "setpriv", package: "util-linux", purpose: DEPLOYMENT },
    Tool { program: "virtualenv", package: "virtualenv", purpose: DEPLOYMENT },
];

/// What `cargo xtask bench relay` compares with.
pub const BENCH_RELAY: [Tool; 2] = [
    Tool { program: "haproxy", package: "haproxy", purpose: "a relay to compare with" },
    Tool { program: "socat", package: "socat", purpose: "a relay to compare with" },
];

/// What `cargo xtask bench load` needs.
pub const BENCH_LOAD: [Tool; 2] = [
    Tool { program: "sockperf", package: "sockperf", purpose: "a second load generator" },
    Tool { program: "taskset", package: "util-linux", purpose: "one CPU for each side" },
];

/// What `cargo xtask fuzz` needs.
pub const FUZZ: [Tool; 1] =
    [Tool { program: "c++", package: "g++", purpose: "libFuzzer, the fuzz targets' engine" }];

/// What `cargo xtask lab` needs.
pub const LAB: [Tool; 8] = [
    Tool { program: "qemu-system-x86_64", package: "qemu-system-x86", purpose: OTHER_KERNELS },
    Tool { program: "busybox", package: "busybox-static", purpose: OTHER_KERNELS },
    Tool { program: "cpio", package: "cpio", purpose: OTHER_KERNELS },
    Tool { program: "xz", package: "xz-utils", purpose: OTHER_KERNELS },
    Tool { program: "zstd", package: "zstd", purpose: OTHER_KERNELS },
    Tool { program: "strip", package: "binutils", purpose: OTHER_KERNELS },
    Tool { program: "ss", package: "iproute2", purpose: OTHER_KERNELS },
    Tool { program: "setpriv", package: "util-linux", purpose: OTHER_KERNELS },
];

/// What `cargo xtask lab wine` needs besides what builds for it.
pub const WINE: [Tool; 1] = [Tool {
    program: "/usr/lib/wine/wine64",
    package: "wine64",
    purpose: "running it for Windows",
}];

/// What `cargo xtask lab arm64` needs besides what builds for it.
pub const ARM64: [Tool; 1] =
    [Tool { program: "qemu-aarch64", package: "qemu-user", purpose: "running it for arm64" }];

const OTHER_KERNELS: &str = "running the tests in other kernels";
const DEPLOYMENT: &str = "checking what is in deploy/";
const STATUS_PAGE: &str = "the status page in a browser";
const LIBBPF: &str = "building libbpf, the tests' loader of eBPF";

impl Tool {
    /// Whether it need not be installed.
    pub fn is_here(&self) -> bool {
        shell::find(self.program).is_some()
    }
}

/// Whether packages can be installed here without asking anybody.
pub fn can_install() -> bool {
    shell::find("apt-get").is_some() && is_root()
}

/// Installs the tools that are missing, or says which packages to install.
pub fn require(tools: &[Tool]) -> Result<()> {
    let missing: Vec<&Tool> = tools.iter().filter(|tool| !tool.is_here()).collect();
    for tool in &missing {
        println!("missing: {} (package {}), for {}", tool.program, tool.package, tool.purpose);
    }
    let mut packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    packages.sort_unstable();
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    if !can_install() {
        bail!("install what is listed above; on Debian: apt-get install {}", packages.join(" "));
    }
    install(&packages)
}

/// Installs these Debian packages, without the recommended ones and without starting services.
pub fn install(packages: &[&str]) -> Result<()> {
    println!("installing: {}", packages.join(" "));
    shell::run(shell::command("apt-get").args(["update", "-qq"]))?;
    // A package must not start its daemon on a developer's machine: `invoke-rc.d` starts nothing
    // in runlevel 1.
    shell::run(
        shell::command("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("RUNLEVEL", "1")
            .args(["install", "-qq", "-y", "--no-install-recommends"])
            .args(packages),
    )
}

/// Whether this process may install packages.
pub fn is_root() -> bool {
    let user = shell::output(shell::command("id").arg("-u")).ok();
    user.is_some_and(|id| id.trim() == "0")
}
