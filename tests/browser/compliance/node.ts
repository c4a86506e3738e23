// Boots Pyodide as web/worker/node.ts does, once, and hands each suite of checks the adapters' JavaScript halves.

import type { PyodideInterface } from 'pyodide'
import { createEngine, type EngineBackend } from '../../../web/bridge/engine.ts'
import { createGradients } from '../../../web/bridge/gradients.ts'
import { openFolder } from '../../../web/bridge/kept.ts'
import { fetchRange } from '../../../web/bridge/ranges.ts'
import { Blobs } from '../../../web/bridge/store.ts'
import type { NetworkToNode, NodeToNetwork } from '../../../web/worker/messages.ts'

declare const ORT: string // all set by bundle.mjs
declare const PYODIDE: string
declare const THREAD_WORKER: string

interface Request { suite: string, origin: string, backend: EngineBackend, threads: number, cases: string[], ports: MessagePort[] }

/** What a BrowserHost is made of. */
class PortBridge {
  readonly #port: MessagePort

  constructor (port: MessagePort) {
    this.#port = port
  }

  post (message: NodeToNetwork): void {
    this.#port.postMessage(message, 'body' in message && message.body !== undefined ? [message.body.buffer] : [])
  }

  postData (id: number, body: Uint8Array<ArrayBuffer>): void {
    this.post({ type: 'data', id, body })
  }

  listen (receive: (message: NetworkToNode) => void, take: (id: number, body: Uint8Array) => void): void {
    this.#port.onmessage = ({ data }: MessageEvent<NetworkToNode>) => {
      if (data.type === 'data') take(data.id, data.body)
      else receive(data)
    }
  }
}

let booted: Promise<PyodideInterface> | null = null

async function boot (origin: string): Promise<PyodideInterface> {
  const folder = `${origin}${PYODIDE}`
  const { loadPyodide } = await import(`${folder}pyodide.mjs`) as typeof import('pyodide')
  const python = await loadPyodide({ indexURL: folder, convertNullToNone: true })
  await python.loadPackage(['kwaainet'], { messageCallback: () => {} })
  const numpy = await fetch(new URL('numpy.whl', import.meta.url)) // whole: a tab's own lacks what only tests use
  python.unpackArchive(await numpy.arrayBuffer(), 'wheel')
  for (const name of ['suites.py', 'architectures.json']) {
    const file = await fetch(new URL(name, import.meta.url))
    python.FS.writeFile(name, await file.text())
  }
  return python
}

async function run ({ suite, origin, backend, threads, cases, ports }: Request): Promise<string> {
  const blobs = await Blobs.open(await openFolder())
  const tools = {
    cases,
    ports: ports.map(port => new PortBridge(port)),
    readBlob: async (digest: string) => await blobs.read(digest),
    writeBlob: async (digest: string, data: Uint8Array<ArrayBuffer>) => await blobs.write(digest, data),
    readPart: async (digest: string) => await blobs.readPart(digest),
    writePart: async (digest: string, offset: number, data: Uint8Array<ArrayBuffer>) => await blobs.writePart(digest, offset, data),
    fetchRange,
    createEngine: async () => await createEngine({
      backend,
      ortUrl: `${origin}${ORT}`,
      threads: {
        threads,
        launch: () => new Worker(new URL(THREAD_WORKER, import.meta.url), { type: 'module' }),
        tell: (count, message) => { if (count !== threads) throw new Error(message) }
      }
    }),
    createGradients: async () => await createGradients(`${origin}${ORT}`, threads)
  }
  const python = await (booted ??= boot(origin))
  const { run } = python.pyimport('suites')
  return await run(tools, suite, origin) as string
}

addEventListener('message', ({ data }: MessageEvent<Request>) => {
  run(data).then(outcomes => { postMessage({ outcomes }) }, (error: unknown) => { postMessage({ error: String(error) }) })
})
