#!/bin/sh
# Take away everything of ours: the environment, caches, images, state. `--all`: workspace/ with its answers as well.
#
# System packages stay (others may use them by now), and so does workspace/: what a learner wrote is not ours.
set -eu

cd "$(dirname "$0")/.."
everything=no
[ "${1:-}" != --all ] || everything=yes

remove() { # remove PATH...: also what belongs to ids that only a user namespace may touch
    for path; do
        [ -e "$path" ] || [ -L "$path" ] || continue
        printf 'removing %s\n' "$path"
        rm -rf -- "$path" 2>/dev/null || unshare --user --map-root-user --map-auto rm -rf -- "$path" 2>/dev/null ||
            printf 'clean: cannot remove all of %s; the cure: sudo rm -rf %s\n' "$path" "$path" >&2
    done
}

# The same places as mycontainer/paths.py, which may be gone already.
if [ -n "${MYCONTAINER_HOME:-}" ]; then
    data=$MYCONTAINER_HOME
elif [ "$(id -u)" = 0 ]; then
    data=/var/lib/mycontainer
else
    data=${XDG_DATA_HOME:-$HOME/.local/share}/mycontainer
fi
if [ "$(id -u)" = 0 ]; then
    runtime=/run/mycontainer
else
    runtime=${XDG_RUNTIME_DIR:+$XDG_RUNTIME_DIR/mycontainer}
    runtime=${runtime:-/tmp/mycontainer-$(id -u)}
fi

remove "$data/images" "$data/jupyter" "$runtime"
rmdir "$data" 2>/dev/null || true # kept if somebody put something else there

# Cgroups: only empty ones can go, and a busy one means that a container still runs.
for top in /sys/fs/cgroup/mycontainer /sys/fs/cgroup/*/mycontainer; do
    [ -w "$top" ] || continue # none, or not ours: an ordinary user's lie in a scope that vanishes with them
    find "$top" -depth -type d -exec rmdir {} \; 2>/dev/null || true
    if [ -d "$top" ]; then printf 'clean: a container still runs in %s\n' "$top" >&2; fi
done

launcher=$PWD/.venv/bin/mycontainer-lab-python
profile=/etc/apparmor.d/mycontainer-lab-$(printf '%s' "$launcher" | cksum | cut -d ' ' -f 1)
if [ -e "$profile" ]; then
    printf 'clean: an AppArmor profile stays; to remove it: sudo apparmor_parser -R %s && sudo rm %s\n' \
        "$profile" "$profile"
fi

remove .venv .cache .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist .vagrant
find . -name .git -prune -o -type d -name __pycache__ -prune -print | while read -r cache; do rm -rf "$cache"; done

if [ "$everything" = yes ]; then
    remove workspace
elif [ -d workspace ]; then
    echo "workspace/ stays: your notebooks and answers are in it. To remove it too: make clean ALL=1"
fi
