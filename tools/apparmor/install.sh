#!/bin/sh
# Give the lab's launcher, and only it, the right to make user namespaces on Ubuntu >= 24.04: install.sh VENV
#
# Not tried on Ubuntu by the authors yet: tested are the text of the profile and the copy of the interpreter.
set -eu

venv=$1
launcher=$venv/bin/mycontainer-lab-python
# One checkout, one profile: two people on one machine must not take it from each other.
name=mycontainer-lab-$(printf '%s' "$launcher" | cksum | cut -d ' ' -f 1)
profile=/etc/apparmor.d/$name

# A real file: AppArmor attaches to the file that is executed, and a symlink would lead to Python itself.
python=$("$venv/bin/python" -c 'import os, sys; print(os.path.realpath(sys.executable))')
cmp -s "$python" "$launcher" || install -m 755 "$python" "$launcher"

text=$(sed -e "s|@LAUNCHER@|$launcher|" -e "s|^profile mycontainer-lab |profile $name |" "$(dirname "$0")/mycontainer-lab")
[ "${2:-}" != --print ] || { printf '%s\n' "$text"; exit 0; }
if [ "$(cat "$profile" 2>/dev/null)" = "$text" ]; then exit 0; fi

echo "Ubuntu restricts user namespaces. The lab needs them, so its launcher gets an AppArmor profile:"
echo "    $profile for $launcher (and for no other program)"
ask=sudo
if [ "${CI:-}" = true ] || [ ! -t 0 ]; then ask='sudo -n'; fi
if ! printf '%s\n' "$text" | $ask tee "$profile" >/dev/null || ! $ask apparmor_parser -r "$profile"; then
    echo "setup: the profile is not loaded. By hand:" >&2
    echo "    $0 $venv --print | sudo tee $profile && sudo apparmor_parser -r $profile" >&2
    exit 1
fi
