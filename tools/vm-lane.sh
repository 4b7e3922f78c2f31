#!/bin/sh
# Inside the virtual machine (tools/test-vm.sh): the tests of cgroups, as root and as an ordinary user.
#
# The user's cgroup is what root would give them: the directory and three files, by chown. They reach the project by
# a bind mount, since a directory above it may be closed to them.
set -u

project=/mnt
mount --bind "$(dirname "$0")/.." "$project"
cd "$project" || exit 1
export PYTHONDONTWRITEBYTECODE=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
echo "$project" >/run/mycontainer.pth # where .venv finds the project
for installed in .venv/lib/python3*/site-packages/*mycontainer*.pth; do mount --bind /run/mycontainer.pth "$installed"; done
ip link set lo up
# The lab shows /etc through an overlay, which the kernel refuses of a directory with other mounts in it.
awk '$5 ~ "^/etc/" { print $5 }' /proc/self/mountinfo | xargs -r umount

suite() { # suite DIRECTORY COMMAND...: run the tests with a home of their own
    home=$1
    shift
    mkdir -p "$home"
    printf '\n#### in the VM, %s\n' "$(basename "$home")"
    # The project's own settings load plugins that take half a minute in here.
    "$@" env HOME="$home" XDG_RUNTIME_DIR= TMPDIR="$home" .venv/bin/python -m pytest -q -rs -c /dev/null \
        --rootdir="$project" -o pythonpath=tests -o timeout=300 -o timeout_method=signal -p pytest_timeout -p pytester \
        -p no:cacheprovider tests/test_cgroups.py tests/test_lab_cgroup.py
}

failed=0
suite /run/root || failed=1

user=4242
given=/sys/fs/cgroup/user
mkdir -p "$given" /run/user
chown "$user" /run/user
for controller in cpu cpuset io memory pids; do
    echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
done
chown "$user" "$given" "$given/cgroup.procs" "$given/cgroup.subtree_control" "$given/cgroup.threads"
# shellcheck disable=SC2016 # expanded by the inner shell, which moves itself
suite /run/user sh -c 'echo $$ >'"$given"'/cgroup.procs && exec "$@"' sh \
    setpriv --reuid="$user" --regid="$user" --clear-groups || failed=1
exit "$failed"
