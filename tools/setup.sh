#!/usr/bin/env bash
# Makes the virtual environment that everything else uses: `tools/setup.sh DIRECTORY`.
#
# Every package comes from a lock with hashes and without resolving anything. The CPU build of torch
# is taken from where pip looks anyway, else from PyTorch's own wheel index. Everything is compiled
# to byte code: an engine imports thousands of files, and compiling them anew costs 30 s a start.
set -euo pipefail

venv=${1:?usage: tools/setup.sh DIRECTORY}
torch_index=https://download.pytorch.org/whl/cpu
started=$SECONDS

fail() {
    printf 'setup: %s\n' "$@" >&2
    exit 1
}

say() {
    printf '[%3d s] %s\n' $((SECONDS - started)) "$*"
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.11 python3 python}; do
        if command -v "$candidate" >/dev/null &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

python=$(find_python) || fail \
    "no Python 3.11 was found; the locked environment is made for that version" \
    "install it (Debian: apt-get install python3.11 python3.11-venv), or name it: make setup PYTHON=/path/to/python3.11"
"$python" -c 'import venv, ensurepip' 2>/dev/null || fail \
    "$python has no venv module" \
    "install it (Debian and Ubuntu: apt-get install python3-venv)"

unset PYTHONDONTWRITEBYTECODE
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_WARN_SCRIPT_LOCATION=1
pip=("$venv/bin/python" -m pip -qq install --no-deps)

say "virtual environment with $("$python" --version) in $venv"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"

say "torch for CPU"
torch=(--require-hashes -r requirements/torch-cpu-lock.txt)
"${pip[@]}" "${torch[@]}" 2>/dev/null || "${pip[@]}" --index-url "$torch_index" "${torch[@]}" || fail \
    "the CPU build of torch could not be installed" \
    "it was looked for where pip is configured to look, and at $torch_index"

say "the other packages (a minute or two)"
"${pip[@]}" --require-hashes -r requirements/cpu-lock.txt

say "rhizome itself"
"${pip[@]}" --no-build-isolation --editable .
"$venv/bin/python" -m compileall -q -j 0 rhizome router workers cluster loadtest

say "done: $("$venv/bin/rhizome" --version)"
