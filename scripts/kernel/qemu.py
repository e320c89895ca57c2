"""A PC by QEMU, with the distribution's kernel: emulated, unless KVM truly works."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import debian
from machine import Share, Start

MEMORY_MIB: Final = 1024
# What a machine of a few minutes can do without, and what takes an emulated one seconds.
_QUICKER: Final = (
    *("mitigations=off", "tsc=reliable", "random.trust_cpu=on", "audit=0", "apparmor=0", "rodata=off"),
    *(
        "cryptomgr.notests",
        "initcall_blacklist=init_kprobe_trace,load_system_certificate_list,crypto_kdf108_init",
    ),
)


class Emulated:
    """An emulated PC."""

    settings: Final = {"SHARED_BY": "9p", "PORTS": "/dev/vport0p"}

    def __init__(self) -> None:
        # To measure it takes tests half a minute there, see tests/support/waiting.py.
        self.variables = {} if _has_kvm() else {"QMESH_TEST_SLOWNESS": "50"}
        self._kernel = debian.kernel()
        self.archive = self._kernel.first_modules.read_bytes()
        modules = self._kernel.modules
        self.shares = [Share("modules", modules, Path("/usr/lib/modules", self._kernel.release))]

    def command(self, start: Start) -> list[str]:
        """QEMU's command line."""
        return [
            *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
            *("-machine", "q35", "-cpu", "max", "-smp", "2", "-m", str(MEMORY_MIB)),
            *_accelerators(),
            *("-kernel", str(self._kernel.image), "-initrd", start.initramfs),
            *("-append", " ".join(["console=ttyS0", *_QUICKER, *start.kernel_arguments])),
            # First, so that its ports are those of /dev/vport0.
            *("-device", "virtio-serial-pci", "-device", "virtio-rng-pci"),
            *(
                word
                for number, name in enumerate(start.ports)
                for word in _port(number, name, start.ports[name])
            ),
            *(word for share in start.shares for word in _share(share)),
        ]


def _accelerators() -> list[str]:
    """KVM first; QEMU takes the first that works."""
    return [*(["-accel", "kvm"] if _has_kvm() else []), "-accel", "tcg,thread=multi,tb-size=512"]


def _has_kvm() -> bool:
    """Whether it is more than a device file."""
    modules = (Path("/sys/module/kvm_intel"), Path("/sys/module/kvm_amd"))
    return Path("/dev/kvm").exists() and any(module.exists() for module in modules)


def _port(number: int, name: str, descriptor: int) -> list[str]:
    device = ["-serial", f"chardev:{name}"]
    if number:
        device = ["-device", f"virtserialport,chardev={name},nr={number},name={name}"]
    return ["-chardev", f"socket,id={name},fd={descriptor}", *device]


def _share(share: Share) -> list[str]:
    readonly = "off" if share.writable else "on"
    path = str(share.source).replace(",", ",,")
    return [
        *(
            "-fsdev",
            f"local,id={share.tag},path={path},security_model=none,readonly={readonly},multidevs=remap",
        ),
        *("-device", f"virtio-9p-pci,fsdev={share.tag},mount_tag={share.tag}"),
    ]
