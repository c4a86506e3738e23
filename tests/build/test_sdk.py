"""The npm package as somebody installs it, and how much of the SDK comes before a visitor has agreed."""

from __future__ import annotations

import gzip
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NODE = ROOT / ".venv" / "bin" / "node"
NPM = ROOT / ".venv" / "bin" / "npm"
DIST = ROOT / "web" / "dist"
STATIC = re.compile(r'(?:from|import)\s*"(\./[^"]+)"')
USE = """
import { cacheEntries, clearCache, createClient, createNode, Problem } from 'kwaainet-web'
import type { KwaaiNode, Limits, NodeStatus, Progress } from 'kwaainet-web'
import { KwaaiNodeElement } from 'kwaainet-web/element'
import 'kwaainet-web/define'

const limits: Limits = { duty: 0.5, hours: [{ from: '22:00', to: '06:00' }] }
const signal = AbortSignal.timeout(1)
const onProgress = ({ done, total }: Progress): void => { console.log(done / total) }
const node: KwaaiNode = createNode({ relay: 'https://relay.example', model: 'm', limits, signal, onProgress })
const show = (status: NodeStatus): void => { console.log(status.state) }
node.addEventListener('state', ({ detail }) => { show(detail) })
node.addEventListener('progress', ({ detail }) => { onProgress(detail) })
node.addEventListener('peer', ({ detail }) => { console.log(detail.joined.join(), detail.peers[0]?.kind) })
node.addEventListener('work', ({ detail }) => { console.log(detail.tokensDone.toFixed()) })
node.addEventListener('receipt', ({ detail: { tokens } }) => { console.log(tokens.toFixed()) })
node.addEventListener('error', ({ detail }) => { console.log(detail instanceof Problem ? detail.code : '') })
await node.start({ signal })
await node.finish({ within: 5, signal })
await node.stop({ signal })
const [entry] = await cacheEntries({ signal })
const freed: number = await clearCache({ model: entry?.model ?? '' }, { signal })
{
  await using scoped = createNode({ relay: new URL('https://relay.example') })
  show(scoped.status())
}
const element: KwaaiNodeElement | null = document.querySelector('kwaai-node')
element?.addEventListener('kwaai-work', ({ detail }) => { console.log(detail.tokensDone) })
console.log(element?.status().state)
const client = createClient({ relay: 'https://relay.example' })
const messages = [{ role: 'user', content: 'Hi' }]
const chunks = await client.chat.completions.create({ messages, stream: true })
for await (const chunk of chunks) console.log(chunk.choices[0].delta.content)
const whole = await client.chat.completions.create({ messages })
console.log(whole.choices[0].message.content)
await client.close({ signal })
console.log(freed, element?.consent?.toISOString())
// @ts-expect-error a duty is a number
node.setLimits({ duty: 'half' })
// @ts-expect-error a state is not a receipt
node.addEventListener('state', ({ detail }) => detail.tokens)
// @ts-expect-error a relay is needed
createNode({})
"""
BARE = """
const sdk = await import('kwaainet-web')
const { KwaaiNodeElement } = await import('kwaainet-web/element')
await import('kwaainet-web/define')
const node = sdk.createNode({ relay: 'https://relay.example' })
if (node.status().state !== 'idle') throw new Error(`it is ${node.status().state}`)
if (typeof KwaaiNodeElement !== 'function') throw new Error('no class')
"""


def run(*command: object, cwd: Path) -> None:
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of somebody's that has installed the package."""
    folder = tmp_path_factory.mktemp("sdk")
    run(NODE, ROOT / "build" / "sdk.mjs", folder / "made", cwd=ROOT)
    run(NPM, "pack", folder / "made" / "package", "--silent", cwd=folder)
    project = folder / "project"
    project.mkdir()
    (project / "package.json").write_text('{"type": "module"}')
    run(NPM, "install", "--offline", "--no-audit", "--no-fund", *folder.glob("*.tgz"), cwd=project)
    return project


@pytest.mark.parametrize(
    ("source", "most", "lacks"),
    [
        ("import 'kwaainet-web'", 100, ""),
        ("import 'kwaainet-web/element'", 100, ""),
        ("import { planThreads } from 'kwaainet-web'; console.log(planThreads())", 2_000, ""),
        ("import { createClient } from 'kwaainet-web'; createClient({})", 25_000, "kwaainet-serving"),
        ("import { createNode } from 'kwaainet-web'; createNode({})", 30_000, "chat.completion"),
    ],
)
def test_what_is_not_used_is_not_bundled(project: Path, source: str, most: int, lacks: str) -> None:
    (project / "entry.js").write_text(source)
    bundler = ROOT / "node_modules" / "esbuild" / "bin" / "esbuild"
    flags = ["--bundle", "--minify", "--format=esm", "--outfile=bundled.js", "--log-level=error"]
    run(NODE, bundler, "entry.js", *flags, cwd=project)
    bundled = (project / "bundled.js").read_text()
    assert len(bundled) <= most
    assert not lacks or lacks not in bundled


def test_every_export_is_documented() -> None:
    typedoc = ROOT / "node_modules" / "typedoc" / "bin" / "typedoc"
    run(NODE, typedoc, "--options", "build/typedoc.json", "--emit", "none", cwd=ROOT)


def test_the_package_installs_types_check_and_importing_it_needs_no_document(project: Path) -> None:
    (project / "use.ts").write_text(USE)
    (project / "bare.mjs").write_text(BARE)
    run(NODE, "bare.mjs", cwd=project)
    flags = [
        "--noEmit",
        "--strict",
        "--exactOptionalPropertyTypes",
        "--noUncheckedIndexedAccess",
        "--target",
        "es2022",
        "--module",
        "nodenext",
    ]
    lib = ["--lib", "es2023,dom,dom.iterable,dom.asynciterable,esnext.disposable"]
    run(NODE, ROOT / "node_modules" / "typescript" / "bin" / "tsc", *flags, *lib, "use.ts", cwd=project)


@pytest.mark.parametrize(
    ("entry", "most"),
    [
        ("sdk/index.js", 25_000),
        ("sdk/define.js", 25_000),
        ("embed.js", 3_000),
        ("assets/network.js", 180_000),
    ],
)
def test_what_loads_at_once_is_small(entry: str, most: int) -> None:
    sizes = {path: len(gzip.compress(path.read_bytes())) for path in loaded(DIST / entry)}
    assert 0 < sum(sizes.values()) <= most, sizes


def loaded(entry: Path, seen: set[Path] | None = None) -> Iterator[Path]:
    """A module and what it imports statically."""
    seen = {entry} if seen is None else seen
    yield entry
    for name in STATIC.findall(entry.read_text()):
        path = (entry.parent / name).resolve()
        if path not in seen:
            seen.add(path)
            yield from loaded(path, seen)
