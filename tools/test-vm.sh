#!/bin/sh
# The tests of cgroup version 2, in a virtual machine with Debian's kernel: for machines that have version 1.
#
#   tools/test-vm.sh                  `make test-vm`: the tests and chapter 3's notebook, as root and as an ordinary user
#   tools/test-vm.sh --short          the part of it that is in `make test`
#   tools/test-vm.sh COMMAND [...]    run one command in there, as root
#
# The kernel is unpacked from its .deb below .cache, not installed. The machine shows our files, read-only, through
# virtme-ng; its processor is emulated, which is slow: keep this lane small.
# Settings: VM_KERNEL=DIR (unpacked already: DIR/boot/vmlinuz-*, DIR/lib/modules), VM_TIMEOUT=seconds.
set -eu

cd "$(dirname "$0")/.."
here=$(pwd -P)
cache=$here/.cache/vm
kernel=${VM_KERNEL:-$cache/kernel}
vng=$here/.venv/bin/vng

skip() { printf 'vm: skipped: %s\n' "$*"; exit 77; }
has() { command -v "$1" >/dev/null 2>&1; }

PATH=$here/.venv/bin:$PATH:/usr/sbin:/sbin
has qemu-system-x86_64 || skip "qemu-system-x86_64 is not installed (Debian package qemu-system-x86)"
has depmod || skip "depmod is not installed (Debian package kmod)"
has udevadm || skip "udevadm is not installed (Debian package udev)"
has busybox || skip "busybox is not installed (Debian package busybox-static)"
[ "$(uname -m)" = x86_64 ] || skip "the kernel is that of an x86_64"
[ -x "$vng" ] || skip "virtme-ng is not in .venv (tools/setup.sh --tests)"

fetch_kernel() {
    has apt-get || skip "no apt-get to fetch a kernel with: set VM_KERNEL"
    rm -rf "$cache" && mkdir -p "$cache/deb"
    package=$(apt-cache depends linux-image-amd64 2>/dev/null | awk '/Depends: linux-image-/ { print $2; exit }')
    [ -n "$package" ] || skip "apt knows no linux-image-amd64 (apt-get update, or set VM_KERNEL)"
    printf 'vm: fetching %s (70 MB, once)\n' "$package"
    (cd "$cache/deb" && apt-get download -q "$package" >log 2>&1) || skip "apt-get cannot download $package: see $cache/deb/log"
    dpkg-deb -x "$cache"/deb/*.deb "$cache/part"
    depmod -b "$cache/part" "$(ls "$cache/part/lib/modules")"
    rm -rf "$cache/deb"
    mv "$cache/part" "$kernel"
}

image() { find "$kernel/boot" -name 'vmlinuz-*' 2>/dev/null | sort | head -n 1; }

[ -n "$(image)" ] || fetch_kernel

case ${1:-} in '' | --short) set -- sh tools/vm-lane.sh "$@" ;; esac
script=$(mktemp "${TMPDIR:-/tmp}/mycontainer-vm.XXXXXX") # so that nobody quotes twice
trap 'rm -f "$script" "$script.tar"' EXIT
# Python and its packages go in as one file: over there each small one costs a question to this machine.
stdlib=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
for unused in playwright rattler mypy mypyc babel jupyterlab pip; do
    printf '%s\n' ".venv/lib/python3*/site-packages/$unused"
done >"$script"
tar -cf "$script.tar" -X "$script" -C "$here" .venv/lib -C "$(dirname "$stdlib")" "$(basename "$stdlib")" ||
    [ $? = 1 ] # a file changed meanwhile: somebody else compiles
printf 'cd %s && PYTHON_TAR=%s STDLIB=%s %s\n' "$here" "$script.tar" "$stdlib" "$*" >"$script"

status=0
timeout "${VM_TIMEOUT:-1800}" "$vng" -r "$(image)" --disable-kvm --force-9p \
    -m 2G --cpus 2 -- "sh $script" </dev/null &
machine=$!
trap 'kill "$machine"; exit 130' INT TERM HUP
wait "$machine" || status=$?
exit "$status"
