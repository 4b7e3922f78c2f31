#!/bin/sh
# Inside the virtual machine (tools/test-vm.sh): the tests of cgroups, as root and as an ordinary user; chapter 3's
# notebook, compared with its outputs; and the checks of its exercises.
#
#   vm-lane.sh            all of it: `make test-vm`
#   vm-lane.sh --short    the tests as root, the notebook as the ordinary user, who may less: `make test` has no more time
#
# The user's cgroup is what root would give them: a directory and three files in it, by chown. They reach the project by
# a bind mount, since a directory above it may be closed to them.
set -u

short=${1:-}
project=/opt
mount --bind "$(dirname "$0")/.." "$project"
cd "$project" || exit 1
export PYTHONDONTWRITEBYTECODE=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 MYCONTAINER_CHAPTER_3=strict
export MYCONTAINER_PATIENCE=30 # seconds, for what takes a moment to vanish
# Python and our own files from memory: the machine's disk is a file server, which asks its host about each of them.
mkdir /run/python && mount -t tmpfs -o size=1g,mode=755 none /run/python
tar -xf "$PYTHON_TAR" -C /run/python
mount --bind /run/python/.venv/lib .venv/lib
mount --bind "/run/python/$(basename "$STDLIB")" "$STDLIB"
for installed in .venv/lib/python3*/site-packages/*mycontainer*.pth; do
    echo "$project" >"$installed" # where .venv finds the project
done
# Its command names its interpreter by a path that is not here.
sed "1s|^#!.*|#!$project/.venv/bin/python|" .venv/bin/mycontainer >/run/mycontainer-command
chmod 755 /run/mycontainer-command && mount --bind /run/mycontainer-command .venv/bin/mycontainer
cp -r mycontainer /run/code && mount --bind /run/code mycontainer
ip link set lo up
# The lab shows /etc through an overlay, which the kernel refuses of a directory with other mounts in it.
awk '$5 ~ "^/etc/" { print $5 }' /proc/self/mountinfo | xargs -r umount

suite() { # suite DIRECTORY COMMAND...: run the tests, and the notebook, with a home of their own
    home=$1
    shift
    mkdir -p "$home"
    printf '\n#### in the VM, %s\n' "$(basename "$home")"
    set -- "$@" env HOME="$home" XDG_RUNTIME_DIR= TMPDIR="$home" \
        IPYTHONDIR="$home/ipython" JUPYTER_RUNTIME_DIR="$home/runtime" JUPYTER_PATH="$home/share/jupyter" \
        .venv/bin/python -m
    "$@" mycontainer.images.base >/dev/null
    "$@" mycontainer.lab.kernelspec install --prefix "$home" >/dev/null
    # The project's own settings load plugins that take half a minute in here.
    set -- "$@" pytest -q -rs -c /dev/null --rootdir="$project" -o pythonpath="$project/tests" -o timeout=600 \
        -o timeout_method=signal -p pytest_timeout -p pytester -p no:cacheprovider
    if [ "$short" != --short ] || [ "$home" = /run/root ]; then
        "$@" tests/test_cgroups.py tests/test_lab_cgroup.py tests/test_limited.py || return 1
        [ "$short" != --short ] || return 0
    fi
    "$@" -p nbval.plugin --nbval --nbval-sanitize-with=tests/nbval_sanitize.cfg --nbval-cell-timeout=480 \
        --nbval-kernel-startup-timeout=480 notebooks/03_cgroups.ipynb || return 1
    [ "$(basename "$home")" != root ] || "$@" tests/test_exercises.py \
        -k "(cap_memory or bomb_proof or three_to_one) and not pretending and not patching"
}

failed=0
suite /run/root || failed=1

user=4242
given=/sys/fs/cgroup/user
mkdir -p "$given" /run/user
chown "$user" /run/user
for cgroup in /sys/fs/cgroup "$given"; do
    for controller in cpu cpuset io memory pids; do
        echo "+$controller" >"$cgroup/cgroup.subtree_control"
    done
done
# Each command in one of its own: the tests pass on its controllers, and then nobody can join it any more.
# shellcheck disable=SC2016 # expanded by the inner shell, which moves itself
suite /run/user sh -c '
    own=$0/$$ && mkdir "$own" && chown "$1" "$own" "$own"/cgroup.procs "$own"/cgroup.subtree_control \
        "$own"/cgroup.threads && shift && echo $$ >"$own/cgroup.procs" && exec "$@"' "$given" "$user" \
    setpriv --reuid="$user" --regid="$user" --clear-groups || failed=1
exit "$failed"
