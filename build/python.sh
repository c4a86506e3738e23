#!/bin/sh
# Prints the first Python >= 3.11 it finds; the Makefile's default for PYTHON.
for name in python3 python3.14 python3.13 python3.12 python3.11 python; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
        echo "$name"
        exit 0
    fi
done
echo "no Python >= 3.11 found; install one or name it: make PYTHON=/path/to/python3" >&2
exit 1
