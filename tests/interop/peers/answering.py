"""What the scripts here share: ``SCRIPT SPEC.json RESULT.json`` reads the one and always writes the other."""

import json
import os
import sys
import traceback
from pathlib import Path


def answer(run):
    """Write ``run(spec)``, or ``{"error": traceback}``, and end the process for good."""
    spec = json.loads(Path(sys.argv[1]).read_text())
    try:
        result = run(spec)
    except BaseException:
        result = {"error": traceback.format_exc()}
    with open(sys.argv[2] + ".part", "w") as out:
        json.dump(result, out)
    os.replace(sys.argv[2] + ".part", sys.argv[2])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1 if "error" in result else 0)  # the daemon's threads hang an ordinary exit
