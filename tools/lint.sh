#!/bin/sh
# All linters, each to its end: one run shows every complaint.
set -u

cd "$(dirname "$0")/.." || exit
PATH=$PWD/.venv/bin:$PATH
failed=''

try() { "$@" || failed="$failed $1"; }

try ruff check .
try mypy
try lint-imports
if command -v shellcheck >/dev/null; then
    # shellcheck disable=SC2046 # our scripts have no spaces in their names
    try shellcheck .ci/run $(find tools -name '*.sh')
else
    echo "shellcheck: skipped, it is not installed"
fi

[ -z "$failed" ] || { printf 'FAILED:%s\n' "$failed" >&2; exit 1; }
