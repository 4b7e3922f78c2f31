#!/bin/sh
# Make a fresh Debian 12/13 or Ubuntu 24.04 machine ready: `make course`, `make test`, CI and Vagrant all come here.
#
#   tools/setup.sh            what a learner needs
#   tools/setup.sh --tests    what the tests need on top
#
# Runs as root and as an ordinary user. Idempotent; when there is nothing to do it takes a few milliseconds.
# Asks before it installs system packages, unless CI=true or there is no terminal to ask on.
# Settings: PYTHON=/path/of/python (which one to make .venv from); pip's own (PIP_INDEX_URL, PIP_FIND_LINKS, ...).
set -eu

cd "$(dirname "$0")/.."
here=$(pwd -P)
venv=$here/.venv
extras=course
[ "${1:-}" != --tests ] || extras=course,dev

say() { printf '%s\n' "$*"; }
warn() { printf 'setup: %s\n' "$*" >&2; }
die() { warn "$@"; exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }
is_root() { [ "$(id -u)" = 0 ]; }
may_ask() { [ "${CI:-}" != true ] && [ -t 0 ] && [ -t 1 ]; }

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin # an ordinary user of Debian does not look there

# ---- system packages ------------------------------------------------------------------------------------------

missing='' # packages, for apt
reasons='' # one line each, for a person

need() { # need PROGRAM PACKAGE WHY
    has "$1" || want "$2" "$3"
}

want() { # want PACKAGE WHY
    case " $missing " in *" $1 "*) return ;; esac
    missing="$missing $1"
    reasons="$reasons$(printf '  %-16s %s' "$1" "$2")
"
}

look_for_packages() {
    is_static_busybox || want busybox-static "the base image is made of it"
    need newuidmap uidmap "gives an ordinary user's lab more than one user id"
    need ip iproute2 "shows and makes network devices"
    need nft nftables "writes the rules by which containers get out (chapter 5)"
    need ps procps "shows processes from outside"
    need lsns util-linux "shows namespaces: unshare, nsenter, lsns"
    need strace strace "shows the system calls of a cell"
    need make make "starts everything: make course"
    need python3 python3 "runs all of this"
    find_python || want python3-venv "makes .venv, so that nothing is installed outside this directory"
    [ "$extras" = course,dev ] || return 0
    need bwrap bubblewrap "a container tool that the tests compare with"
    need umoci umoci "an image tool that the tests compare with"
    need setpriv util-linux "runs a command as another user"
    need useradd passwd "makes the ordinary user that the tests run as"
    need runuser util-linux "runs the tests as that user"
    need nsenter util-linux "what the tests compare joining with"
    need readelf binutils "what the tests compare our reading of programs with"
    if [ "$(uname -m)" = x86_64 ] && is_debian; then # the tests of cgroup version 2 run in a virtual machine
        need qemu-system-x86_64 qemu-system-x86 "is that machine"
        need depmod kmod "lists the modules of its kernel"
        need udevadm udev "tells it apart from other machines"
    fi
    need shellcheck shellcheck "reads our shell scripts"
    ! is_debian || need chromium chromium "shows that no output of a cell can harm a notebook" # Ubuntu has it as a snap
    need git git "copies the project for the ordinary user's tests"
}

is_debian() { grep -qsx 'ID=debian' /etc/os-release; }

is_static_busybox() { # Debian's busybox package brings a dynamic one, of no use in an empty root
    has busybox && ! ldd "$(command -v busybox)" >/dev/null 2>&1
}

install_packages() {
    look_for_packages
    [ -n "$missing" ] || return 0
    say "These system packages are missing:" "" && printf '%s' "$reasons"
    command="apt-get install -y --no-install-recommends$missing"
    if ! has apt-get; then
        warn "this is not Debian or Ubuntu: install what brings these programs; going on without"
        return 0
    fi
    if ! is_root; then
        agree_to "sudo $command" || { leave_out; return 0; }
    fi
    if run_as_root sh -c "export DEBIAN_FRONTEND=noninteractive; $command || { apt-get update && $command; }" \
        >"$log" 2>&1; then
        say "Installed."
    else
        tail -n 5 "$log" >&2
        leave_out
    fi
}

agree_to() { # only a person at a terminal is asked; elsewhere sudo must do without a password
    if ! has sudo; then return 1; fi
    if ! may_ask; then sudo -n true 2>/dev/null; return; fi
    if [ "$(cat "$declined" 2>/dev/null)" = "$missing" ]; then return 1; fi
    printf 'Run "%s" now? [Y/n] ' "$1"
    read -r answer || answer=n
    case $answer in
        '' | y* | Y*) return 0 ;;
        *) printf '%s' "$missing" >"$declined"; return 1 ;;
    esac
}

run_as_root() {
    if is_root; then "$@"; elif may_ask; then sudo "$@"; else sudo -n "$@"; fi
}

leave_out() {
    warn "going on without them; what needs them will say so. To install them:"
    warn "    $(is_root || printf 'sudo ')apt-get update && $(is_root || printf 'sudo ')$command"
}

# ---- a Python, and .venv --------------------------------------------------------------------------------------

python=''

find_python() { # sets $python to the first one that runs, is new enough and can make an environment
    for python in "${PYTHON:-}" /usr/bin/python3 /usr/bin/python3.14 /usr/bin/python3.13 /usr/bin/python3.12 \
        /usr/bin/python3.11 python3 python3.14 python3.13 python3.12 python3.11; do
        [ -n "$python" ] || continue
        # Tried, not looked at: a pyenv shim is there and does not run, another's Python lies in a closed home.
        python=$("$python" -c 'import sys, venv, ensurepip
assert sys.version_info >= (3, 11)
print(sys.executable)' 2>/dev/null) && return 0
    done
    python=''
    return 1
}

make_venv() {
    key="$(cat pyproject.toml tools/setup.sh mycontainer/__init__.py | cksum) $here"
    for done_before in "$venv/.setup-course,dev" "$venv/.setup-$extras"; do
        [ "$(cat "$done_before" 2>/dev/null)" != "$key" ] || return 0
    done
    if ! "$venv/bin/python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        ! grep -qsF "$venv/bin" "$venv/bin/pip"; then # a moved checkout: its scripts name the old place
        find_python || die "no Python >= 3.11 that $(id -un) may run and that has venv. Install python3 and python3-venv," \
            "or say which: make course PYTHON=/path/of/python3"
        say "Making .venv from $python"
        "$python" -m venv --clear "$venv"
    fi
    say "Installing the Python packages (a minute or two, once)"
    "$venv/bin/python" -m pip install -q --disable-pip-version-check -e ".[$extras]" >"$log" 2>&1 || {
        tail -n 15 "$log" >&2
        die "pip could not install the packages: see $log"
    }
    printf '%s' "$key" >"$venv/.setup-$extras"
}

# ---- what the lab stands on -----------------------------------------------------------------------------------

build_base_image() { # its stamp holds what it is made from, and where it is
    made_from="$(cat mycontainer/images/*.py | cksum) $(ls -lL "$(command -v busybox || echo /bin/sh)")"
    made_from="$made_from $(id -u) ${MYCONTAINER_HOME:-} ${XDG_DATA_HOME:-} ${HOME:-}"
    stamp=$venv/.setup-image
    if [ "$(sed 1d "$stamp" 2>/dev/null)" = "$made_from" ] && [ -s "$(sed -n 1p "$stamp")" ]; then return 0; fi
    [ -e mycontainer/images/base.py ] || return 0
    say "Building the base image"
    "$venv/bin/python" -I -m mycontainer.images.base || { warn "no base image: chapters that need one will say so"; return 0; }
    where=$("$venv/bin/python" -c 'from mycontainer import images; print(images.find("busybox"))')
    printf '%s\n%s' "$where" "$made_from" >"$stamp"
}

install_kernel() {
    [ -e mycontainer/lab/kernelspec.py ] || return 0
    key="$(cat mycontainer/lab/kernelspec.py tools/setup.sh | cksum) $(ls "$venv/bin/mycontainer-lab-python" 2>/dev/null || echo none)"
    [ "$(cat "$venv/.setup-kernel" 2>/dev/null)" != "$key" ] || return 0
    say 'Installing the kernel "Container Lab" into .venv'
    "$venv/bin/python" -I -m mycontainer.lab.kernelspec install --sys-prefix >"$log" 2>&1 || {
        tail -n 15 "$log" >&2
        die "the lab's kernel could not be installed"
    }
    printf '%s' "$key" >"$venv/.setup-kernel"
}

# ---- what an ordinary user's namespaces depend on -------------------------------------------------------------

allow_user_namespaces() { # Ubuntu >= 24.04 lets only programs with an AppArmor profile use user namespaces
    switch=/proc/sys/kernel/apparmor_restrict_unprivileged_userns
    [ "$(cat "$switch" 2>/dev/null)" = 1 ] && ! is_root || return 0
    tools/apparmor/install.sh "$venv" || warn "the lab will not start: see mycontainer doctor"
}

check_subordinate_ids() {
    ! is_root || return 0
    name=$(id -un)
    if grep -qs "^$name:\|^$(id -u):" /etc/subuid && grep -qs "^$name:\|^$(id -u):" /etc/subgid; then return 0; fi
    first=$(cat /etc/subuid /etc/subgid 2>/dev/null | awk -F: '{ end = $2 + $3; if (end > max) max = end }
        END { print (max > 100000 ? max : 100000) }')
    range=$first-$((first + 65535))
    warn "$name has no subordinate ids in /etc/subuid and /etc/subgid: the lab works, with one user id only. The cure:"
    warn "    sudo usermod --add-subuids $range --add-subgids $range $name"
}

# ---------------------------------------------------------------------------------------------------------------

mkdir -p "$here/.cache/setup"
log=$here/.cache/setup/log
declined=$here/.cache/setup/declined
install_packages
make_venv
build_base_image
allow_user_namespaces # before the kernel, which asks for what this makes
install_kernel
check_subordinate_ids
