"""What a virtual machine boots: an initramfs of our own, and how a task gets into it and its token out.

The initramfs is busybox, the kernel's virtio modules, and a script as PID 1. It either runs the task itself
(the smallest machine that can), or goes on to a disk with a Debian on it. A task comes on the command line of
the kernel, and its token leaves on the serial port: nothing has to be written to start one, and one image
serves any number of machines at once.

Sources: https://docs.kernel.org/driver-api/early-userspace/buffer-format.html (the archive),
https://docs.kernel.org/admin-guide/kernel-parameters.html (what the kernel does not know of "name=value" goes
into the environment of PID 1), switch_root(8).
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from mycontainer.bench.kernel import Kernel, machines_dir, readable, sync
from mycontainer.errors import ContainerError
from mycontainer.images.base import Entry, Tree, directory, file, find_static_busybox, symlink, with_parents

if TYPE_CHECKING:
    from mycontainer.bench.subject import Task

ADDRESS = "10.0.2.15"  # the guest's, in QEMU's user networking; the router has .2
COMMAND_LINE = 2048    # bytes of the kernel's command line, on both architectures
MARK = "mark"          # a line "mark NAME SECONDS": the guest passes NAME when its clock says SECONDS
ENDED = "ended"        # the task's process is gone

MARKS = 'mark() { read -r now rest </proc/uptime; echo "mark $1 $now"; }'

# Each busybox here is a process: under emulation some milliseconds. So one `mount -a`, and builtins.
INIT = f"""\
#!/bin/sh
# PID 1. From the kernel's command line: task, port (needs a network), disk (where to go on), page.
busybox mount -a
{MARKS}
mark init
[ -z "$disk$port" ] || for module in /modules/*.ko; do busybox insmod "$module"; done
[ -n "$disk" ] || busybox ip link set lo up # systemd does it itself
if [ -n "$port" ]; then
    busybox ip address add {ADDRESS}/24 dev eth0
    busybox ip link set eth0 up
    busybox ip route add default via 10.0.2.2
    mark network
fi
task=$(printf %b "$task")
if [ -z "$disk" ]; then
    mark service
    eval "$task"
    mark {ENDED}
    exec busybox reboot -f # which ends QEMU: it was told not to boot again
fi
busybox mount -t ext4 "$disk" /root
busybox mount -t tmpfs -o mode=755 tmpfs /root/run
busybox cp -a /run/. /root/run/
if [ -n "$page" ]; then
    task= # the disk's own server does it
    echo "$page" >/root/var/www/html/index.html
    busybox ln -s /lib/systemd/system/nginx.service /root/run/systemd/system/multi-user.target.wants/
fi
echo '{MARKS}
mark service' >/root/run/task
[ -z "$task" ] || echo "$task
mark {ENDED}" >>/root/run/task
mark disk
busybox umount /proc /sys
busybox mount --move /dev /root/dev
unset task port disk page
exec busybox switch_root -c /dev/console /root /sbin/init
"""

FSTAB = "proc /proc proc\nsysfs /sys sysfs\ndevtmpfs /dev devtmpfs\n"

# For systemd: a service among those of a usual boot, for it waits for nothing that others do not wait for.
UNIT = """\
[Unit]
Description=The task of the benchmark
[Service]
ExecStart=/bin/sh /run/task
StandardOutput=tty
StandardError=inherit
TTYPath=/dev/console
"""
UNITS: Tree = {
    "run/systemd/system/task.service": file(UNIT),
    "run/systemd/system/multi-user.target.wants/task.service": symlink("../task.service"),
    # A log-in on the serial port would write into our lines.
    "run/systemd/system/serial-getty@.service": symlink("/dev/null"),
}


def tree(kernel: Kernel) -> Tree:
    """The files of the initramfs. Raises ContainerError without a busybox that is linked statically."""
    busybox = find_static_busybox()
    if busybox is None:
        raise ContainerError("cannot prepare a virtual machine", "this machine has no busybox that is linked "
                             "statically", "Install the package busybox-static (Debian, Ubuntu).")
    return {
        **dict.fromkeys(["dev", "proc", "root", "sys", "tmp"], directory()),
        # Only PID 1 of the kernel needs it: without, it has no output until it has mounted /dev.
        "dev/console": Entry(stat.S_IFCHR | 0o600),
        "bin/busybox": file(Path(busybox).read_bytes(), 0o755),
        "bin/sh": symlink("busybox"),
        "etc/fstab": file(FSTAB),
        "init": file(INIT, 0o755),
        **UNITS,
        **{f"modules/{Path(module).name}": file(Path(module).read_bytes()) for module in kernel.modules},
    }


def cpio(files: Tree) -> bytes:
    """An archive in the format that the kernel unpacks: the same bytes for the same files, always."""
    out = bytearray()
    # The one device has the numbers of /dev/console, 5 and 1.
    for number, (name, entry) in enumerate([*with_parents(files).items(), ("TRAILER!!!", Entry(0))], 1):
        device = (5, 1) if stat.S_ISCHR(entry.mode) else (0, 0)
        path = name.encode() + b"\0"
        fields = (number, entry.mode, 0, 0, 1, 0, len(entry.content), 0, 0, *device, len(path), 0)
        for part in (b"070701" + b"".join(b"%08x" % field for field in fields) + path, entry.content):
            out += part
            out += bytes(-len(out) % 4)
    return bytes(out)


def initramfs(kernel: Kernel) -> Path:
    """Build the initramfs for a kernel, unless it is there and right; returns its path."""
    home = initramfs_path(kernel)
    wanted = cpio(tree(kernel))
    if home.is_file() and home.read_bytes() == wanted:
        return home
    readable(home.parent)
    descriptor, part = tempfile.mkstemp(prefix=".part-", dir=home.parent)
    try:
        with open(descriptor, "wb") as stream:
            stream.write(wanted)
            os.fchmod(descriptor, 0o644)
        sync(Path(part))
        os.rename(part, home)
    except BaseException:
        os.unlink(part)
        raise
    return home


def initramfs_path(kernel: Kernel) -> Path:
    """Where it is kept."""
    return machines_dir() / f"initramfs-{kernel.release}.cpio"


def command_line(task: Task, console: str, disk: str = "", page: bool = False) -> str:
    """The kernel's command line for a task. ``page``: a server of the disk's own shows the token.

    ``loglevel=1`` leaves a panic's first line, which names the cause; ``panic=-1`` then boots again at once,
    which ends QEMU. Raises ValueError for a task that does not fit.
    """
    words = [f"console={console}", "quiet", "loglevel=1", "systemd.show_status=false", "panic=-1",
             "net.ifnames=0", f'task="{_quoted(task)}"']
    if task.port:
        words.append(f"port={task.port}")
    if disk:
        words.append(f"disk={disk}")
    if page:
        words.append(f"page={task.token}")
    line = " ".join(words)
    if len(line.encode()) >= COMMAND_LINE:
        raise ValueError(f"a task of {len(line)} bytes does not fit on a kernel's command line")
    return line


def _quoted(task: Task) -> str:
    """A shell command for the inside of a pair of double quotes, which the kernel would take away.

    printf's %b, in the script above, turns an octal number back into what it stands for.
    """
    # A server that listens on 127.0.0.1 would not hear what comes through the guest's network device.
    argv = [word.replace(f"127.0.0.1:{task.port}", f"{ADDRESS}:{task.port}") for word in task.argv]
    words = " ".join("'" + word.replace("'", "'\\''") + "'" for word in argv)
    return "".join(f"\\0{ord(letter):03o}" if letter in '\\"\n\t' else letter for letter in words)
