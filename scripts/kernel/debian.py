"""The distribution's own kernel, downloaded and unpacked, never installed."""

from __future__ import annotations

import gzip
import lzma
import re
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cache
from errors import NoMachine
from initramfs import archive
from lifetime import tied

KERNELS: Final = ("linux-image-amd64", "linux-image-generic")
"""Debian's package of its newest kernel, and Ubuntu's."""
PARTS: Final = ("linux-image", "linux-binary", "linux-base", "linux-modules", "linux-modules-extra")
"""What a kernel may be spread over: up to Debian 13 all is in the first."""

_APT_DOWNLOAD: Final = ("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download")

NEEDED: Final = ("virtio_pci", "virtio_console", "9p", "9pnet_virtio", "overlay")
# The kernel would ask for these one by one, which takes a second and more each where it is emulated.
WANTED: Final = (
    *("wireguard", "veth", "dummy", "bridge", "tun", "nf_tables", "nft_ct", "nft_nat", "nft_chain_nat"),
    *("nft_masq", "nft_redir", "nft_limit", "nft_log", "nft_reject_inet", "nft_fib_inet", "nft_hash"),
    *("nft_numgen", "nft_quota", "nft_connlimit", "nft_objref", "nf_log_syslog", "nf_conntrack_netlink"),
)


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel.

    image: what is booted.
    modules: the folder that belongs at /lib/modules/RELEASE.
    first_modules: an archive with the modules to load at once, as files below `modules`.
    """

    image: Path
    modules: Path
    first_modules: Path

    @property
    def release(self) -> str:
        """What `uname -r` says."""
        return self.modules.name


def kernel() -> Kernel:
    """The kernel of the cache; the first time it is downloaded. Raises NoMachine when it can't be."""
    folder = cache.made("debian", [Path(__file__)], _make)
    return Kernel(folder / "image", next((folder / "lib/modules").iterdir()), folder / "modules.cpio")


def _make(folder: Path) -> None:
    try:
        release = _newest_release() or _newest_release(update=True)
        if release is None:
            raise NoMachine(f"apt knows none of {' and '.join(KERNELS)}", hint="see `apt-get update`")
        _say(f"downloading the kernel {release}, once")
        if not _download(folder, release):
            _run("apt-get", "update", "-qq")
            if not _download(folder, release):
                raise NoMachine(f"the kernel {release} could not be downloaded", hint="see above")
        _unpack(folder, release)
    except subprocess.CalledProcessError as error:
        raise NoMachine(f"`{' '.join(map(str, error.cmd))}` failed", hint="see above") from None


def _newest_release(*, update: bool = False) -> str | None:
    """What the distribution's kernel is called in `uname -r`, if apt knows one."""
    if update:
        _run("apt-get", "update", "-qq")
    for package in KERNELS:
        depends = _output("apt-cache", "depends", "--no-recommends", package)
        found = re.search(r"Depends: linux-image-(\d\S+)", depends)
        if found:
            return found[1]
    return None


def _download(folder: Path, release: str) -> bool:
    packages = [
        name for name in (f"{part}-{release}" for part in PARTS) if _output("apt-cache", "show", name)
    ]
    with tied(
        ["sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", folder, *_APT_DOWNLOAD, *packages]
    ) as process:
        return process.wait() == 0


def _unpack(folder: Path, release: str) -> None:
    for package in sorted(folder.glob("*.deb")):
        _run("dpkg-deb", "--extract", package, folder)
        package.unlink()
    if not (folder / "lib").exists():  # newer packages have all below /usr
        (folder / "lib").symlink_to("usr/lib")
    _run("depmod", "-b", folder, release)
    places = (folder / "boot" / f"vmlinuz-{release}", folder / "lib/modules" / release / "vmlinuz")
    image = next(place for place in places if place.exists())
    (folder / "image").write_bytes(_bootable(image.read_bytes()))
    (folder / "modules.cpio").write_bytes(archive(_first_modules(folder, release)))


def _bootable(image: bytes) -> bytes:
    """The kernel within a bzImage: to unpack itself would take it long where it is emulated.

    Source: the kernel's x86 boot protocol: setup_sects, payload_offset, payload_length.
    """
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (image[0x1F1] + 1) * 512 + offset
    # The last four octets are the size of what was packed.
    return _unpacked(image[start : start + length - 4])


def _unpacked(octets: bytes) -> bytes:
    if octets.startswith(b"\xfd7zXZ\0"):
        return lzma.decompress(octets)
    if octets.startswith(b"\x1f\x8b"):
        return gzip.decompress(octets)
    if octets.startswith(b"\x28\xb5\x2f\xfd"):
        return subprocess.run(["zstd", "-dcq"], input=octets, stdout=subprocess.PIPE, check=True).stdout
    return octets


def _first_modules(folder: Path, release: str) -> dict[str, bytes]:
    """The modules to load at once with those that they need, and `order`, which names them in order."""
    files: dict[str, bytes] = {}
    for module in (*NEEDED, *WANTED):
        # One that is built in is no file, and one that is not there is missed by whoever needs it.
        for line in _output("modprobe", "-d", folder, "-S", release, "--show-depends", module).splitlines():
            word, _, path = line.partition(" ")
            if word == "insmod":
                file = Path(path.split()[0])
                files[f"modules/{file.name.partition('.')[0]}"] = _unpacked(file.read_bytes())
    order = "".join(f"{Path(name).name}\n" for name in files)
    return {**files, "modules/order": order.encode()}


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr)


def _output(*command: str | Path) -> str:
    """What a command says, nothing when it fails."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else ""


def _say(text: str) -> None:
    print(text, file=sys.stderr)
