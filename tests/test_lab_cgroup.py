"""The lab's own cgroup, where there is version 2: a world of its own, within limits that it cannot see."""

from __future__ import annotations

import os
import subprocess
import sys

from needs import needs_cgroups, needs_userns, needs_v2

pytestmark = [needs_cgroups, needs_v2, needs_userns]

# In the lab: a shell, which is enough to see what is ours; and Python, with our own module.
LOOK = """
cat /proc/self/cgroup
cd /sys/fs/cgroup
mkdir mine && cat mine/cgroup.controllers
(echo max > memory.max) 2>/dev/null && echo max || echo refused
cat cgroup.procs | wc -l
mount | grep -c cgroup
rmdir mine
"""
USE = """
from mycontainer import cgroups
from mycontainer.lab import hogs
import os
group = cgroups.create("mine")
print(group.path)
group.limit_memory(24 << 20)
group.limit_processes(5)
child = os.fork()
if child == 0:
    group.join()
    print(hogs.bomb(group), flush=True)
    hogs.eat(group, 60 << 20)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), group.numbers("memory.events")["oom_kill"])
group.remove()
"""


def in_the_lab(*argv: str) -> list[str]:
    done = subprocess.run([sys.executable, "-m", "mycontainer.cli.main", "lab", *argv],
                          capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split("\n")


def test_it_may_make_cgroups_and_sees_no_other() -> None:
    lines = [line.strip() for line in in_the_lab("sh", "-c", LOOK)]
    assert lines[0] == "0::/mycontainer-outside"
    assert set(lines[1].split()) >= {"cpu", "memory", "pids"}
    # Its own files belong to root of the host, or to the user who made them; the lab's limit is one level up.
    assert lines[2] == ("refused" if os.geteuid() == 0 else "max")
    assert lines[3:5] == ["0", "1"]  # nobody in its root, and one mount


def test_limits_hold_in_it() -> None:
    lines = [line.strip() for line in in_the_lab(sys.executable, "-c", USE)]
    assert lines[:3] == ["/sys/fs/cgroup/mycontainer/mine", "4", "-9 1"]


