"""Whether KVM really works here: a guest is booted with it, and must bring out its token in time.

That /dev/kvm exists says little: inside another virtual machine it may abort, or spin for ever. The answer is
kept until the next boot. Without KVM, QEMU translates the guest's instructions (TCG), which works everywhere
and is some ten times slower: such a time is never what a virtual machine costs elsewhere.
"""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from mycontainer.bench import qemu
from mycontainer.bench.kernel import Kernel, machines_dir
from mycontainer.bench.qemu import KVM, MICROVM, TCG, Accelerator
from mycontainer.bench.subject import NotReady, hello
from mycontainer.bench.vm import Machine

DEVICE = "/dev/kvm"
DEADLINE = 5.0  # seconds for a boot that takes a tenth of one where KVM works


def find(kernel: Kernel) -> Accelerator:
    """The accelerator that works here, and the machine type to use with it. At most 10 s, once a boot."""
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        why = f"no {DEVICE}" if not os.path.exists(DEVICE) else f"this user may not open {DEVICE} (group kvm)"
        return _emulated(why)
    asked = [_boot_id(), qemu.version(), kernel.release]
    memory = machines_dir() / "accelerator.json"
    with suppress(OSError, ValueError, TypeError, LookupError):
        told = json.loads(memory.read_text())
        if told["asked"] == asked:
            return Accelerator(*told["answer"])
    answer = try_kvm(kernel)
    _remember(memory, json.dumps({"asked": asked, "answer": answer}) + "\n")
    return answer


def try_kvm(kernel: Kernel) -> Accelerator:
    """Boot with KVM: QEMU's smallest machine type if that works (its clock is KVM's), or the usual one."""
    computer = qemu.here()
    why = ""
    for machine in ((MICROVM, computer.machine) if computer is qemu.X86 else (computer.machine,)):
        why = boots(kernel, Accelerator(KVM, machine))
        if not why:
            return Accelerator(KVM, machine)
    return _emulated(f"a guest does not boot with {DEVICE}: {why}")


def boots(kernel: Kernel, accelerator: Accelerator) -> str:
    """Boot the minimal guest; empty if its token came out, else why not."""
    task = hello()
    machine = Machine(qemu.argv(kernel, task, accelerator, 128), task)
    try:
        machine.ready(DEADLINE)
    except NotReady as error:
        return str(error)
    finally:
        machine.stop()
    return ""


def differences(accelerator: Accelerator) -> tuple[str, ...]:
    """What a reader of its times must know."""
    if accelerator.name == KVM:
        return ("its processor: KVM",)
    return (f"its processor: {TCG}; with KVM it would be many times faster",)


def _emulated(why: str) -> Accelerator:
    # microvm under TCG hangs now and then: it has no other clock to calibrate the time-stamp counter with.
    return Accelerator(TCG, qemu.here().machine, why)


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _remember(memory: Path, text: str) -> None:
    """Not where the directory is read-only, as in the lab: then it is tried again."""
    with suppress(OSError):
        descriptor, part = tempfile.mkstemp(prefix=".part-", dir=memory.parent)
        with open(descriptor, "w") as stream:
            stream.write(text)
            os.fchmod(descriptor, 0o644)
        os.rename(part, memory)
