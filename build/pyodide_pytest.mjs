// Runs pytest inside Pyodide under Node: node build/pyodide_pytest.mjs [PYTEST ARGS...]
//
// The wheel is installed as a tab installs it, from .cache/pyodide-tests; tests/ is mounted at
// /repo/tests, so that paths are given as tests/unit/wire. asyncio.run needs JavaScript's stack
// switching: give Node 24 --experimental-wasm-jspi.
import { fileURLToPath } from "node:url";
import path from "node:path";
import { loadPyodide } from "pyodide";

const ROOT = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const DISTRIBUTION = path.join(ROOT, ".cache", "pyodide-tests") + path.sep;

async function run(args) {
  const python = await loadPyodide({
    lockFileURL: DISTRIBUTION + "pyodide-lock.json",
    packageBaseUrl: DISTRIBUTION,
    packages: ["kwaainet", "jinja2", "pytest", "hypothesis"],
    env: {
      HOME: "/home/pyodide",
      PYTHONDONTWRITEBYTECODE: "1",
      KWAAINET_NIGHTLY: process.env.KWAAINET_NIGHTLY ?? "", // see tests/nightly/sizes.py
    },
  });
  python.FS.mkdirTree("/repo/tests");
  python.mountNodeFS("/repo/tests", path.join(ROOT, "tests"));
  python.FS.chdir("/repo");
  const { main } = python.pyimport("pytest");
  const code = await main.callPromising(python.toPy([
    "--import-mode=importlib",
    "--strict-markers",
    "--rootdir=/repo",
    "--override-ini=pythonpath=tests", // as in pyproject.toml, which is not there
    "-p",
    "no:cacheprovider",
    "-W",
    "error::pytest.PytestUnraisableExceptionWarning",
    ...args,
  ]));
  return Number(code);
}

// An error that nobody catches would print the line of Pyodide's source it came from: half a megabyte.
process.exit(
  await run(process.argv.slice(2)).catch((error) => {
    console.error(error.message);
    return 2;
  }),
);
