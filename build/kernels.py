"""Compiles web/kernels/*.c with zig into web/bridge/kernel_code.ts, or checks that file against them.

Rule of the file: the same bytes on every machine. The compiler's version is locked, nothing of the machine
goes into the code, and what is committed is compared, so that setup needs no compiler.

    python build/kernels.py [--check]
"""

from __future__ import annotations

import argparse
import base64
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "web" / "kernels"
ZIG = ROOT / ".cache" / "zig" / "ziglang" / "zig"
CODE = ROOT / "web" / "bridge" / "kernel_code.ts"
FEATURES = "generic+simd128+bulk_memory+sign_ext+nontrapping_fptoint"
# name of the constant, what the machine must have beside FEATURES
BUILDS = {"PLAIN": "", "RELAXED": "+relaxed_simd"}
FLAGS = ["-O3", "-Wall", "-Wextra", "-Werror", "-fno-math-errno", "-ffp-contract=off", "-nostdlib", "-s"]
# Addresses stay a pointer and a constant, which a load has for nothing, if loops keep their form.
FLAGS += ["-mllvm", "-disable-lsr"]
# A memory that threads share needs a maximum; the flag that it is shared is set where it is used. Each thread
# has a stack of its own, so that the pointer to it is exported.
LINK = ["--no-entry", "--import-memory", "--max-memory=4294901760", "-z,stack-size=65536"]
LINK += ["--export-dynamic", "--export=__stack_pointer"]

HEADER = """\
// Written by build/kernels.py from web/kernels/*.c: the kernels as WebAssembly, in base64. Do not edit.
// RELAXED needs relaxed SIMD, which WebAssembly.validate tells.
"""


def compiler() -> list[str]:
    """zig's command for C, fetched where it is not there yet."""
    if not ZIG.exists():
        subprocess.run([sys.executable, str(ROOT / "build" / "setup"), "zig"], check=True)
    return [str(ZIG), "cc"]


def compile_kernels() -> str:
    """The text of ``kernel_code.ts``."""
    text = HEADER
    with tempfile.TemporaryDirectory() as folder:
        for name, extra in BUILDS.items():
            wasm = Path(folder) / f"{name}.wasm"
            target = ["-target", "wasm32-freestanding", f"-mcpu={FEATURES}{extra}"]
            sources = sorted(path.name for path in SOURCES.glob("*.c"))
            command = [*compiler(), *target, *FLAGS, "-Wl," + ",".join(LINK), "-o", str(wasm), *sources]
            if subprocess.run(command, cwd=SOURCES).returncode:
                raise SystemExit(f"the kernels do not compile: {' '.join(command)}")
            text += f"\nexport const {name} = '{base64.b64encode(wasm.read_bytes()).decode()}'\n"
    return text


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true", help="compare with what is committed, write nothing")
    text = compile_kernels()
    if not parser.parse_args().check:
        CODE.write_text(text)
        return 0
    if CODE.read_text() != text:
        print(
            f"{CODE.relative_to(ROOT)} is not what web/kernels compiles to: run python build/kernels.py",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
