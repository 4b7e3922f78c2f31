#!/bin/sh
# The whole suite: linters, then every test and notebook as root (if you are) and as an ordinary user; the tests of
# cgroup version 2 in a virtual machine.
#
#   tools/test.sh            `make test`
#   tools/test.sh --soak     only the tests that take long
#   tools/test.sh --lane     the suite as whoever calls, and nothing else
#
# Started by root, the ordinary user is a temporary one with a home, a copy of the project and a .venv of their own; and
# with processes and a network of their own too, so that the two lanes can run at the same time.
set -u

cd "$(dirname "$0")/.." || exit
here=$(pwd -P)
results=$here/.cache/test
mkdir -p "$results"
soak=''
only_lane=no
user=''
for option; do
    case $option in
        --soak) soak='-m soak' ;;
        --lane) only_lane=yes ;;
        --lane-of=*) user=${option#*=} ;; # from below: we are root, in namespaces
        *) printf 'test: no such option: %s\n' "$option" >&2; exit 2 ;;
    esac
done

headline() { printf '\n#### %s\n\n' "$*"; }

# Plain Python, so that no test depends on a variable of the caller's shell.
run_suite() { # run_suite LOG; returns pytest's exit code
    unset PYTHONDONTWRITEBYTECODE PYTHONPATH PYTHONHOME PYTEST_ADDOPTS
    {
        # shellcheck disable=SC2086 # two words or none
        .venv/bin/python -m pytest --nbval $soak </dev/null 2>&1
        echo $? >"$1.code"
    } | tee "$1"
    return "$(cat "$1.code")"
}

closing_line() { # without colours, dashes and equals signs
    sed 's/\x1b\[[0-9;]*m//g' "$1" |
        grep -E '^vm: skipped|(passed|failed|error|skipped|no tests ran).* in [0-9.]+s' | tail -n 1 |
        sed 's/^[= ]*//; s/[= ]*$//'
}

start_vm() { # start_vm LOG
    mkdir -p "$results/tmp"
    TMPDIR=$results/tmp setsid tools/test-vm.sh --short </dev/null >"$1" 2>&1 &
    vm=$!
}

await_vm() { # await_vm LOG; a machine that cannot have one says why, and that is no failure
    wait "$vm"
    code=$?
    vm=''
    cat "$1"
    rm -rf "$results/tmp"
    case $code in 0 | 77) return 0 ;; esac
    return 1
}

vm=''
clean_up() {
    [ -z "$vm" ] || kill -TERM -"$vm" 2>/dev/null # a group of its own, with all that it has started
    [ -z "$user" ] || remove_user
}

# ---- the lane of the ordinary user, when root started it ------------------------------------------------------

make_user() {
    user=mycontainer-test-$$
    useradd --create-home --shell /bin/sh "$user"
    home=$(getent passwd "$user" | cut -d: -f6)
    grep -q "^$user:" /etc/subuid || usermod --add-subuids 1000000-1065535 --add-subgids 1000000-1065535 "$user"
}

# Of this user, and of the ids that lie in their range: a container's processes are owned by those.
processes_of_user() {
    first=$(awk -F: -v u="$user" '$1 == u { print $2 }' /etc/subuid)
    ps -eo pid=,uid=,stat=,args= | awk -v own="$(id -u "$user")" -v first="${first:-1}" \
        '$3 !~ /^Z/ && ($2 == own || ($2 >= first && $2 < first + 65536))'
}

remove_user() {
    uid=$(id -u "$user" 2>/dev/null) || return 0
    for _ in 1 2 3 4 5; do # until nothing of the user's runs any more
        for pid in $(processes_of_user | awk '{ print $1 }'); do kill -9 "$pid" 2>/dev/null; done
        userdel --remove "$user" 2>/dev/null
        id "$user" >/dev/null 2>&1 || break
        sleep 1
    done
    rm -rf "/tmp/mycontainer-$uid" "/tmp/pytest-of-$user"
}

# What the installation needs from the caller's environment, and nothing else: pip's settings, proxies, certificates.
write_environment() {
    .venv/bin/python - >"$home/environment" <<'END'
import os, re, shlex
wanted = re.compile(r"PIP_\w+|\w+_proxy|\w+_PROXY|SSL_\w+|\w*(CERT|CA_BUNDLE)\w*|LANG|LC_\w+|TERM|CI|PYTHON")
for name, value in os.environ.items():
    if wanted.fullmatch(name):
        print(f"export {name}={shlex.quote(value)}")
END
}

# Downloaded once for both lanes; without it the second lane would download everything again.
share_wheels() {
    wheels=$here/.cache/wheels
    key=$(cksum <pyproject.toml)
    if [ "$(cat "$wheels/.key" 2>/dev/null)" != "$key" ]; then
        rm -rf "$wheels"
        .venv/bin/python -m pip freeze --exclude-editable >"$results/freeze"
        .venv/bin/python -m pip download -q --no-deps -d "$wheels" -r "$results/freeze" hatchling editables pathspec \
            packaging pluggy trove-classifiers 2>/dev/null || return 0
        printf '%s' "$key" >"$wheels/.key"
    fi
    cp -r "$wheels" "$home/wheels"
    # shellcheck disable=SC2016 # it is the user's shell that expands it
    printf 'export PIP_FIND_LINKS="%s ${PIP_FIND_LINKS:-}"\n' "$home/wheels" >>"$home/environment"
}

run_as_new_user() {
    write_environment
    share_wheels
    mkdir "$home/mycontainer"
    git -c safe.directory="$here" ls-files --cached --others --exclude-standard -z |
        tar --create --null --files-from=- --ignore-failed-read 2>/dev/null | tar --extract --directory "$home/mycontainer"
    chown -R "$user:" "$home"
    runuser -l "$user" -c ". ./environment; cd mycontainer && CI=true tools/setup.sh --tests" </dev/null || return
    # shellcheck disable=SC2086 # two words or none
    unshare --pid --fork --kill-child --mount-proc --net tools/test.sh --lane-of="$user" ${soak:+--soak}
}

# In namespaces, of which we are the init: processes that lose their parent come to us.
run_lane_of() {
    home=$(getent passwd "$user" | cut -d: -f6)
    ip link set lo up
    lane=". ./environment; cd mycontainer; export MYCONTAINER_LANE=second # see tests/needs.py
          tools/test.sh --lane ${soak:+--soak}"
    runuser -l "$user" -c "$lane" </dev/null
    code=$?
    sleep 1
    left=$(processes_of_user)
    if [ -n "$left" ]; then
        printf 'test: processes of the ordinary user were left behind:\n%s\n' "$left" >&2
        code=1
    fi
    return "$code"
}

# ---------------------------------------------------------------------------------------------------------------

if [ "$only_lane" = yes ]; then
    run_suite "$results/lane.log"
    exit
fi

if [ -n "$user" ]; then
    run_lane_of
    exit
fi

rm -f "$results"/*.log
failed=''
trap clean_up EXIT
trap 'exit 130' INT TERM HUP
tools/setup.sh --tests || exit 1
if [ -z "$soak" ]; then
    headline "linters"
    tools/lint.sh || failed="$failed linters"
fi
[ -n "$soak" ] || start_vm "$results/vm.log"
if [ "$(id -u)" = 0 ]; then
    make_user
    run_as_new_user >"$results/user.log" 2>&1 &
    lane=$!
    headline "the suite as root"
    MYCONTAINER_LANE=first run_suite "$results/root.log" || failed="$failed root" # see tests/needs.py
    headline "the suite as an ordinary user"
    wait "$lane" || failed="$failed user"
    cat "$results/user.log"
else
    headline "the suite as $(id -un)"
    run_suite "$results/user.log" || failed="$failed user"
fi
if [ -z "$soak" ]; then
    headline "cgroup version 2, in a virtual machine"
    await_vm "$results/vm.log" || failed="$failed vm"
fi

headline "in short"
for lane in root user vm; do
    [ ! -e "$results/$lane.log" ] || printf '%-6s %s\n' "$lane:" "$(closing_line "$results/$lane.log")"
done
[ -e "$results/root.log" ] || echo "root:  not run (you are $(id -un))"
if [ -n "$failed" ]; then
    printf 'FAILED:%s\n' "$failed"
    exit 1
fi
echo "all green"
