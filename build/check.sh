#!/bin/sh
# What a change must hold besides its tests; runs everything and fails if anything did (make check).
cd "$(dirname "$0")/.." || exit 1
PATH=$PWD/.venv/bin:$PATH
failed=""
check() {
    echo "[check] $*"
    "$@" || failed="$failed
    $*"
}
check ruff check .
check ruff format --check .
check mypy
check lint-imports
check python build/layout.py
check python build/messages.py --check
check python build/kernels.py --check
check npm run --silent types
check npm run --silent layers
if [ -n "$failed" ]; then
    echo "[check] FAILED:$failed" >&2
    exit 1
fi
echo "[check] all well"
