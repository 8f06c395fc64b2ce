#!/usr/bin/env bash
# Writes the four lock files anew, or with --check tells whether the CUDA lock still can be had.
#
#   requirements/torch-cpu-lock.txt  the CPU build of torch alone: it has an index of its own
#   requirements/cpu-lock.txt        what `make setup` installs: cluster, engine on CPU, tests
#   requirements/cuda-lock.txt       the same with the CUDA engine, without tests
#   requirements/router-lock.txt     a router image: no torch, no Ray, no engine
#
# torch for CPU is looked for in $PIP_FIND_LINKS (a directory of wheels), else at PyTorch's index.
set -euo pipefail

tools=build/lock-tools
header="# Made by \`make lock\`; every package is pinned with its hashes."
torch_header="# Made by \`make lock\`: the CPU build of torch, from a local wheel or from PyTorch's own index."
compile=(pip compile pyproject.toml --quiet --generate-hashes --python-version 3.11 --no-annotate --no-header)
cuda_platform=(--python-version 3.11 --python-platform x86_64-manylinux_2_28)

if ! command -v uv >/dev/null; then
    [ -x "$tools/bin/uv" ] || {
        python3 -m venv "$tools"
        "$tools/bin/python" -m pip -qq --disable-pip-version-check install uv
    }
    PATH="$PWD/$tools/bin:$PATH"
fi

check() {
    local target
    target=$(mktemp -d)
    trap 'rm -rf "$target"' RETURN
    # Every pinned package is looked up with its hashes for that platform; nothing is installed.
    uv pip install --dry-run --quiet --no-deps --require-hashes \
        "${cuda_platform[@]}" --target "$target" -r requirements/cuda-lock.txt
    echo "the CUDA lock resolves: $(grep -c '==' requirements/cuda-lock.txt) packages"
}

lock() {
    local torch_source=(--extra-index-url https://download.pytorch.org/whl/cpu --index-strategy unsafe-best-match)
    [ -z "${PIP_FIND_LINKS:-}" ] || torch_source=(--find-links "$PIP_FIND_LINKS")
    uv "${compile[@]}" "${torch_source[@]}" --excludes requirements/excludes.txt \
        --extra cluster --extra kubernetes --extra embedded --extra cpu --extra dev >build/cpu.txt
    { echo "$torch_header"; awk '/^[^ ]/ {torch = /^torch==/} torch' build/cpu.txt; } >requirements/torch-cpu-lock.txt
    { echo "$header"; awk '/^[^ ]/ {torch = /^torch==/} !torch' build/cpu.txt; } >requirements/cpu-lock.txt
    { echo "$header"; uv "${compile[@]}" "${cuda_platform[@]:2}" --extra cluster --extra kubernetes --extra cuda; } \
        >requirements/cuda-lock.txt
    { echo "$header"; uv "${compile[@]}" --extra kubernetes; } >requirements/router-lock.txt
}

mkdir -p build
if [ "${1:-}" = --check ]; then
    check
else
    lock
    git --no-pager diff --stat -- requirements
fi
