"""Starts rttscope as every unit, image and manifest here would: with its command line, and confined
by its filters of system calls, user and capabilities. The program and rendered manifests flow in as
arguments; what does not start, or may do too little or too much, is printed, and the exit code is 1
if anything is. Runs as root in a network namespace of its own, whose ports are all free."""

import dataclasses
import json
import os
import pathlib
import plistlib
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import pyseccomp
import yaml

HERE = pathlib.Path(__file__).parent
INSTALLED = "/usr/local/bin/rttscope"
# "Operation not permitted" and "Function not implemented", as the kernel numbers them.
EPERM, ENOSYS = 1, 38
NOBODY = 65532
CAPABILITIES = ["NET_RAW", "BPF", "NET_ADMIN"]
START_SECONDS = 20


@dataclasses.dataclass
class Line:
    """A command line, and the file it stands in."""

    file: str
    words: list
    # What it reads beside its command line: paths and texts; its environment.
    files: dict = dataclasses.field(default_factory=dict)
    environment: dict = dataclasses.field(default_factory=dict)


def assignments(text):
    """NAME=value lines of an environment file, those that are commented out too."""
    for line in text.splitlines():
        match = re.fullmatch(r"#?([A-Z_]+)=(.*)", line)
        if match:
            yield match.group(1), match.group(2)


def settings(name):
    """The (key, value) lines of a unit file."""
    text = (HERE / "systemd" / name).read_text(encoding="utf-8")
    return [tuple(line.split("=", 1)) for line in text.splitlines() if re.match(r"\w+=", line)]


def unit_lines():
    """The service's command line with each environment that a file here offers."""
    unit = settings("rttscope.service")
    environment = [
        word for key, value in unit if key == "Environment" for word in shlex.split(value)
    ]
    defaults = dict(word.split("=", 1) for word in environment)
    drop_in = dict(settings("drop-ins/socket.conf"))["Environment"].split("=", 1)
    offered = list(assignments((HERE / "systemd/rttscope.env").read_text(encoding="utf-8")))
    for name, value in [*defaults.items(), drop_in, *offered]:
        if name not in defaults:
            raise SystemExit(f"rttscope.service uses no {name}")
        # As systemd does it: split at blanks, since the unit has no braces.
        words = dict(unit)["ExecStart"]
        variables = {**defaults, name: value}
        if value.startswith("run "):
            # The next line of the file: where /metrics is, the configuration file says.
            variables["RTTSCOPE_WEB"] = ""
        for variable, text in variables.items():
            words = words.replace(f"${variable}", text)
        files = {"/etc/rttscope/rttscope.yaml": "serve: {listen: ':4000'}\n"}
        yield Line("systemd/rttscope.service", words.split(), files)


def other_lines(manifests):
    """The command lines of launchd, of the image, and of the pods."""
    with open(HERE / "launchd/rttscope.plist", "rb") as file:
        yield Line("launchd/rttscope.plist", plistlib.load(file)["ProgramArguments"])
    text = (HERE / "container/Containerfile").read_text(encoding="utf-8")
    entry, command = (
        json.loads(re.search(rf"^{word} (.*)$", text, re.MULTILINE).group(1))
        for word in ("ENTRYPOINT", "CMD")
    )
    yield Line("container/Containerfile", entry + command)
    for path in manifests:
        resources = list(yaml.safe_load_all(pathlib.Path(path).read_text(encoding="utf-8")))
        maps = {it["metadata"]["name"]: it["data"] for it in resources if it["kind"] == "ConfigMap"}
        for resource in resources:
            if resource["kind"] == "DaemonSet":
                pod = resource["spec"]["template"]["spec"]
                container = pod["containers"][0]
                mounts = {it["name"]: it["mountPath"] for it in container["volumeMounts"]}
                files = {
                    f"{mounts[volume['name']]}/{name}": text
                    for volume in pod["volumes"]
                    for name, text in maps[volume["configMap"]["name"]].items()
                }
                fields = {"status.podIP": "127.0.0.1"}
                environment = {
                    it["name"]: fields[it["valueFrom"]["fieldRef"]["fieldPath"]]
                    for it in container["env"]
                }
                name = f"kubernetes/{pathlib.Path(path).stem}"
                yield Line(name, entry + container["args"], files, environment)


def confine(rules, families=None):
    """Confines this process, for a child before exec: `rules` are (names, action, arguments)."""
    loaded = pyseccomp.SyscallFilter(defaction=pyseccomp.ERRNO(EPERM))
    for names, action, arguments in rules:
        for name in names:
            if name == "socket" and families:
                continue
            try:
                loaded.add_rule(action, name, *arguments)
            except (OSError, RuntimeError, ValueError):
                # A system call of another architecture.
                if pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) >= 0:
                    raise
    for family in families or []:
        loaded.add_rule(pyseccomp.ALLOW, "socket", pyseccomp.Arg(0, pyseccomp.EQ, family))
    loaded.load()


def profile_rules():
    """The container's seccomp profile, whose every word must be known."""
    profile = json.loads((HERE / "container/seccomp.json").read_text(encoding="utf-8"))
    if profile["defaultAction"] != "SCMP_ACT_ERRNO" or profile["defaultErrnoRet"] != EPERM:
        raise SystemExit("container/seccomp.json: what it does not name must be forbidden")
    if set(profile) != {"defaultAction", "defaultErrnoRet", "syscalls"}:
        raise SystemExit("container/seccomp.json: unknown keys")
    for group in profile["syscalls"]:
        if not set(group) <= {"names", "action", "args", "errnoRet"}:
            raise SystemExit(f"container/seccomp.json: unknown keys beside {group['names']}")
        for name in group["names"]:
            arches = (pyseccomp.Arch.X86_64, pyseccomp.Arch.AARCH64)
            if all(pyseccomp.resolve_syscall(arch, name) < 0 for arch in arches):
                raise SystemExit(f"container/seccomp.json: there is no system call {name}")
        action = {
            "SCMP_ACT_ALLOW": pyseccomp.ALLOW,
            "SCMP_ACT_ERRNO": pyseccomp.ERRNO(group.get("errnoRet", EPERM)),
        }[group["action"]]
        arguments = [
            pyseccomp.Arg(part["index"], pyseccomp.MASKED_EQ, part["value"], part["valueTwo"])
            for part in group.get("args", [])
            if {"SCMP_CMP_MASKED_EQ": True}[part["op"]]
        ]
        yield group["names"], action, arguments


def system_calls(name):
    """What systemd means by one word of SystemCallFilter."""
    if not name.startswith("@"):
        return {name}
    output = subprocess.run(
        ["systemd-analyze", "--no-pager", "syscall-filter", name],
        check=True,
        capture_output=True,
        encoding="utf-8",
    ).stdout
    words = [line.strip() for line in output.splitlines()[1:]]
    words = [word for word in words if word and not word.startswith("#")]
    return set().union(*(system_calls(word) for word in words))


def unit_rules(*files):
    """The service's own filter: later lines of SystemCallFilter add, or take away with a tilde."""
    allowed = set()
    for file in files:
        for key, value in settings(file):
            if key == "SystemCallFilter":
                names = set().union(*(system_calls(name) for name in value.lstrip("~").split()))
                allowed = allowed - names if value.startswith("~") else allowed | names
    return [(sorted(allowed | system_calls("@default")), pyseccomp.ALLOW, [])]


def unit_families():
    """The numbers of the service's families of addresses."""
    words = dict(settings("rttscope.service"))["RestrictAddressFamilies"].split()
    return [int(getattr(socket, word)) for word in words]


def untold(program, folder):
    """What a service of systemd's type `notify` should tell systemd and does not."""
    unit = dict(settings("rttscope.service"))
    path = os.path.join(folder, "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
        notices.bind(path)
        notices.settimeout(START_SECONDS)
        environment = {**os.environ, "NOTIFY_SOCKET": path, "WATCHDOG_USEC": "1000000"}
        words = [program, "serve", "--listen=:4000", "--web.listen-address=:2112"]
        wanted = {"READY=1"} if unit["Type"] == "notify" else set()
        wanted |= {"WATCHDOG=1"} if "WatchdogSec" in unit else set()
        with subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL) as process:
            try:
                while wanted:
                    wanted -= set(notices.recv(4096).decode().splitlines())
            except TimeoutError:
                yield f"systemd/rttscope.service: systemd is never told {wanted}"
            process.terminate()


def ready(line, program):
    """Starts a command line and waits until it says that it is ready; what it said if it is not."""
    words = [program, *line.words[1:]]
    if "--web.systemd-socket" in words:
        stream = dict(settings("rttscope.socket"))["ListenStream"]
        words = ["systemd-socket-activate", f"--listen={stream}", *words]
    words = [word for word in words if not word.startswith("--web.config.file=")]
    flag = "--config.file="
    for index, word in enumerate(words):
        if word.startswith(flag):
            path = os.path.join(os.path.dirname(program), "config.yaml")
            pathlib.Path(path).write_text(line.files[word.removeprefix(flag)], encoding="utf-8")
            words[index] = flag + path
    streams = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL}
    environment = {**os.environ, **line.environment}
    with subprocess.Popen(words, env=environment, **streams) as process:
        until = time.monotonic() + START_SECONDS
        is_ready = False
        while not is_ready and process.poll() is None and time.monotonic() < until:
            try:
                with urllib.request.urlopen("http://127.0.0.1:2112/-/ready", timeout=2) as answer:
                    is_ready = answer.status == 200
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        process.terminate()
        said = process.stderr.read().decode()
    return None if is_ready else said or f"exit code {process.returncode}"


def unit_capabilities():
    """What the drop-in gives, which must be all that it lets rttscope have."""
    drop_in = dict(settings("drop-ins/capabilities.conf"))
    if drop_in["AmbientCapabilities"] != drop_in["CapabilityBoundingSet"]:
        raise SystemExit("capabilities.conf: what is given is not what is allowed")
    return [word.removeprefix("CAP_") for word in drop_in["AmbientCapabilities"].split()]


def works(program, confinement, added, wanted):
    """What `doctor` finds missing in this confinement, of what it should find."""
    bounding = ",".join(["-all", *(f"+{name.lower()}" for name in added)])
    limited = ["setpriv", f"--bounding-set={bounding}"] if added else []
    user = {} if added else {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    # The user changes before the filter is loaded, which also sets no_new_privs.
    output = subprocess.run(
        [*limited, program, "doctor", "--json"],
        check=False,
        stdout=subprocess.PIPE,
        preexec_fn=confinement,
        **user,
    ).stdout
    if not output:
        yield "rttscope does not even start"
        return
    features = {part["name"]: part for part in json.loads(output)["features"]}
    for name in wanted:
        if features[name]["verdict"] != "ok":
            yield f"{name}: {features[name]['detail']}"
    for name in {"raw_syn", "ebpf_syn_timer"} - set(wanted):
        if features[name]["verdict"] == "ok":
            yield f"{name} works, which needs rights that must not be there"


def escapes(confinement):
    """What a confined program can do although it should not, where it can without."""
    for words in (["unshare", "--net", "true"], ["setpriv", "--dump"], ["keyctl", "show"]):
        try:
            open_door = subprocess.run(words, check=False, capture_output=True).returncode == 0
        except FileNotFoundError:
            continue
        inside = subprocess.run(words, check=False, capture_output=True, preexec_fn=confinement)
        # setpriv is there to show that a confined program can run at all.
        if open_door and (inside.returncode == 0) != (words[0] == "setpriv"):
            yield f"{' '.join(words)}: exit code {inside.returncode}"


def found(program, manifests):
    """Everything that is wrong."""
    lines = {" ".join(line.words): line for line in [*unit_lines(), *other_lines(manifests)]}
    for line in lines.values():
        if line.words[0] not in (INSTALLED, "/rttscope"):
            yield f"{line.file}: {line.words[0]} is not where rttscope is installed"
        # The help is printed when every flag before it was understood.
        words = [program, *line.words[1:], "--help"]
        understood = subprocess.run(words, check=False, capture_output=True, encoding="utf-8")
        if understood.returncode != 0:
            yield f"{line.file}: {understood.stderr}"
        elif (said := ready(line, program)) is not None:
            yield f"{line.file}: {' '.join(line.words)} does not get ready: {said}"
    yield from untold(program, os.path.dirname(program))
    plain = ["io_uring", "kernel_tx_stamps", "kernel_rx_stamps"]
    privileged = [*plain, "raw_syn", "ebpf_syn_timer"]
    profile, families = list(profile_rules()), unit_families()
    base = unit_rules("rttscope.service")
    more = unit_rules("rttscope.service", "drop-ins/capabilities.conf")
    for name, rules, only, added, wanted in [
        ("container/seccomp.json", profile, None, [], plain),
        ("container/seccomp.json with capabilities", profile, None, CAPABILITIES, privileged),
        ("systemd/rttscope.service", base, families, [], plain),
        ("systemd/drop-ins/capabilities.conf", more, families, unit_capabilities(), privileged),
    ]:
        confinement = lambda rules=rules, only=only: confine(rules, only)
        for wrong in [*works(program, confinement, added, wanted), *escapes(confinement)]:
            yield f"{name}: {wrong}"


def main():
    program, *manifests = sys.argv[1:]
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory() as folder:
        # Where every user may start it, wherever it was built.
        os.chmod(folder, 0o755)
        wrong = list(found(shutil.copy(program, folder), manifests))
    for line in wrong:
        print(line)
    if not wrong:
        print("every command line starts, and works within its confinement")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
