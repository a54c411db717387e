//! A machine's memory disk, and its boot: the tests with what they need flow in, what the machine
//! wrote on its serial line flows out.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::kernel::Found;
use super::left_out::LEFT_OUT;
use crate::shell;

/// What qemu needs to start.
pub struct Image {
    kernel: PathBuf,
    disk: PathBuf,
    /// What the machine writes.
    pub log: PathBuf,
}

/// Modules that the tests need and that are not built in, in the order of their dependencies.
const MODULES: [&str; 11] = [
    "inet_diag",
    "tcp_diag",
    "veth",
    "tun",
    "dummy",
    "sch_ingress",
    "cls_bpf",
    "sch_netem",
    "llc",
    "stp",
    "bridge",
];
/// Programs of this machine that the tests start.
const PROGRAMS: [&str; 4] = ["ip", "tc", "ss", "setpriv"];
/// All that qemu can do but: `cmpxchg16b`, after which qemu 7.2 gives an interrupt flags that are
/// none, and the kernel dies sooner or later; page tables of five levels, which take time.
const CPU: &str = "max,-cx16,-la57";
/// Both CPUs in turn, on one thread of qemu's. On a thread for each, one may write to code that the
/// other is just translating, which qemu 7.2 can miss; kernels rewrite their own code whenever
/// stamps or filters of traffic are switched on, and died of it about once an hour.
const ACCEL: &str = "tcg,thread=single";
/// A machine's memory, MiB: the disk is in it twice while it boots.
const MEMORY: &str = "1536";

impl Image {
    /// Puts the disk together.
    pub fn build(folder: &Path, kernel: &Found, tests: &Path, filters: &[String]) -> Result<Self> {
        let root = folder.join(format!("{}-root", kernel.name));
        if root.exists() {
            fs::remove_dir_all(&root)?;
        }
        for name in ["bin", "sbin", "proc", "sys", "dev", "tmp", "run", "etc", "modules"] {
            fs::create_dir_all(root.join(name))?;
        }
        install(&root, &program("busybox")?, Path::new("/bin/busybox"))?;
        for name in PROGRAMS {
            install(&root, &program(name)?, &Path::new("/sbin").join(name))?;
        }
        install_stripped(&root, tests, Path::new("/tests"))?;
        // The tests know the program by the path that it had when they were compiled.
        let product = tests.parent().and_then(Path::parent).context("target/debug")?;
        let product = product.join("rttscope");
        install_stripped(&root, &product, &product)?;
        let mut inserts = String::new();
        for name in MODULES {
            if let Some(path) = find_module(&kernel.modules, name)? {
                unpack_module(&path, &root.join("modules").join(format!("{name}.ko")))?;
                writeln!(inserts, "insmod /modules/{name}.ko")?;
            }
        }
        let mut words = filters.join(" ");
        for left_out in LEFT_OUT {
            write!(words, " --skip {}", left_out.name)?;
        }
        let init = INIT.replace("INSERTS", &inserts).replace("WORDS", &words);
        let init = init.replace("AGAIN_MAX", AGAIN_MAX);
        fs::write(root.join("etc/hosts"), HOSTS)?;
        fs::write(root.join("etc/passwd"), PASSWD)?;
        fs::write(root.join("init"), init)?;
        fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
        let disk = folder.join(format!("{}.img", kernel.name));
        let pack = format!("find . | cpio -o -H newc --quiet | gzip -1 >'{}'", disk.display());
        shell::run(shell::command("sh").args(["-c", &pack]).current_dir(&root))?;
        let log = folder.join(format!("{}.log", kernel.name));
        Ok(Self { kernel: kernel.image.clone(), disk, log })
    }

    /// Boots it and waits until it is off. Always without hardware virtualization: nested, it is
    /// slower and less reliable than none.
    pub fn boot(&self, seconds: u64) -> Result<String> {
        let mut qemu = shell::command("timeout");
        qemu.arg(seconds.to_string()).arg("qemu-system-x86_64");
        qemu.args(["-accel", ACCEL, "-cpu", CPU, "-smp", "2", "-m", MEMORY]);
        qemu.args(["-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio"]);
        qemu.arg("-kernel").arg(&self.kernel).arg("-initrd").arg(&self.disk);
        qemu.args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off apparmor=0"]);
        // A file, so that one may look how far a machine has come.
        let written = fs::File::create(&self.log)?;
        let output = qemu.stdin(Stdio::null()).stdout(written).stderr(Stdio::piped()).output();
        let output = output.context("cannot start qemu")?;
        let log = String::from_utf8_lossy(&fs::read(&self.log)?).replace('\r', "");
        ensure!(!log.is_empty(), "qemu: {}", String::from_utf8_lossy(&output.stderr));
        Ok(log)
    }
}

fn program(name: &str) -> Result<PathBuf> {
    let found = shell::find(name).or_else(|| {
        let path = Path::new("/usr/sbin").join(name);
        path.is_file().then_some(path)
    });
    found.with_context(|| format!("no {name} on the search path"))
}

/// A program with the libraries that it is linked to.
fn install(root: &Path, from: &Path, to: &Path) -> Result<()> {
    copy(from, &under(root, to))?;
    let said = Command::new("ldd").arg(from).output().context("cannot start ldd")?;
    let said = String::from_utf8_lossy(&said.stdout);
    let libraries: BTreeSet<&str> =
        said.split_whitespace().filter(|word| word.starts_with('/')).collect();
    for library in libraries {
        copy(Path::new(library), &under(root, Path::new(library)))?;
    }
    Ok(())
}

/// The same without what only a debugger reads: a hundred MB.
fn install_stripped(root: &Path, from: &Path, to: &Path) -> Result<()> {
    install(root, from, to)?;
    shell::run(shell::command("strip").arg(under(root, to)))
}

fn under(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::copy(from, to).with_context(|| format!("cannot copy {from:?} to {to:?}"))?;
    Ok(())
}

/// A module's file, compressed or not; `None` if it is built in, or this kernel has none.
fn find_module(folder: &Path, name: &str) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() {
            if let Some(found) = find_module(&path, name)? {
                return Ok(Some(found));
            }
        } else if path.file_name().is_some_and(|file| {
            file.to_string_lossy().split_once(".ko").is_some_and(|(stem, _)| stem == name)
        }) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

fn unpack_module(from: &Path, to: &Path) -> Result<()> {
    let unpacker = match from.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return copy(from, to),
    };
    let unpacked = Command::new(unpacker).arg("-dcq").arg(from).output();
    let unpacked = unpacked.with_context(|| format!("cannot start {unpacker}"))?;
    ensure!(unpacked.status.success(), "{unpacker} cannot unpack {}", from.display());
    fs::write(to, unpacked.stdout)?;
    Ok(())
}

/// `localhost` has two addresses on most machines.
const HOSTS: &str = "127.0.0.1 localhost\n::1 localhost\n";
/// A file that every system has.
const PASSWD: &str = "root:x:0:0:root:/:/bin/sh\n";

/// As many tests may fail beside others, whom an emulated CPU keeps from their turn, if none fails
/// alone. More are no accident.
const AGAIN_MAX: &str = "12";

/// The first process. Tests that are ignored elsewhere need what these kernels have.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox mkdir -p /usr/bin
/bin/busybox --install -s /bin
rm -f /bin/ip /bin/tc /bin/ss /bin/setpriv
export PATH=/sbin:/bin HOME=/tmp RUST_BACKTRACE=0 RTTSCOPE_SKIPS=/tmp/skips
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
chmod 1777 /tmp
INSERTS
# As a service may have; before Linux 5.11 eBPF maps count as locked memory.
ulimit -l 65536
ip link set lo up
echo
echo \"booted $(uname -r)\"
(/tests --include-ignored WORDS; echo $? >/tmp/ended) 2>&1 | tee /tmp/said
failed=$(sed -n 's/^test \\(.*\\) \\.\\.\\. FAILED$/\\1/p' /tmp/said)
count=$(echo $failed | wc -w)
if [ $count -gt 0 ] && [ $count -le AGAIN_MAX ]; then
    echo again, one by one: $failed
    /tests --include-ignored --test-threads=1 --exact $failed
    echo $? >/tmp/ended
fi
echo \"tests ended with $(cat /tmp/ended)\"
poweroff -f
";
