#!/bin/sh
# Writes the hash-checked locks anew: sh build/requirements/lock.sh (needs uv, https://docs.astral.sh/uv/).
# dev.txt and relay.txt (what the container image installs) hold for every Python >= 3.11 and platform; the
# pyodide ones for the tab's Python.
# No lock names a package index.
set -eu
cd "$(dirname "$0")/../.."
lock() {
    uv pip compile --quiet --upgrade --universal --generate-hashes --no-emit-index-url --only-binary :all: \
        --custom-compile-command "sh build/requirements/lock.sh" --output-file "build/requirements/$1.txt" "$2" \
        --python-version "$3" $4
}
lock dev pyproject.toml 3.11 "--extra native --extra acme --extra webrtc --group dev"
lock relay pyproject.toml 3.11 "--extra network --extra acme --constraint build/requirements/dev.txt"
lock kernels build/requirements/kernels.in 3.11 ""
lock pyodide build/requirements/pyodide.in 3.14 ""
lock pyodide-pure build/requirements/pyodide-pure.in 3.14 ""
lock pyodide-tests build/requirements/pyodide-tests.in 3.14 ""
