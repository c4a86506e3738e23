// The node worker: boots Pyodide with the kwaainet wheel and hands Python what only JavaScript can do.
// Rule of the file: the only one that loads pyodide; no Python in strings, no decisions of the node.

import type { PyodideInterface } from 'pyodide'
import type { PyProxy } from 'pyodide/ffi'
import type { JsEngine } from '../bridge/engine.ts'
import { describe } from '../bridge/faults.ts'
import { type Blobs, fetchRange, openBlobs } from '../bridge/store.ts'
import type { NetworkGone, NetworkToNode, NodeConfig, NodeToNetwork, NodeToPage, PageToNode, StartNode } from './messages.ts'

const PACKAGE = 'kwaainet'
const PYTHON_STEPS = 4 // of progress: the core is half of it, packages the rest

let deliver: ((message: NetworkToNode) => void) | null = null
let stop: (() => void) | null = null
let stopAsked = false
const early: NetworkToNode[] = []

function report (message: NodeToPage): void {
  postMessage(message)
}

function receive (message: NetworkToNode | NetworkGone): void {
  if (deliver === null) early.push(message)
  else deliver(message)
}

/** What kwaainet.browser.worker sees as `bridge`. Functions Python passes in are proxies it keeps alive. */
class Bridge {
  readonly engine: JsEngine
  readonly #network: MessagePort
  #blobs: Promise<Blobs> | null = null

  constructor (network: MessagePort, engine: JsEngine) {
    this.engine = engine
    this.#network = network
    network.onmessage = ({ data }: MessageEvent<NetworkToNode>) => { receive(data) }
  }

  /** A message for the network worker; its body is transferred. */
  post (message: NodeToNetwork): void {
    this.#network.postMessage(message, 'body' in message && message.body !== undefined ? [message.body.buffer] : [])
  }

  /** Messages of the network worker, those that came before included. */
  listen (receiver: (message: NetworkToNode) => void): void {
    deliver = receiver
    for (const message of early.splice(0)) receiver(message)
  }

  report (message: NodeToPage): void {
    report(message)
  }

  onStop (callback: () => void): void {
    stop = callback
    if (stopAsked) callback()
  }

  async readBlob (digest: string): Promise<Uint8Array | null> {
    this.#blobs ??= openBlobs()
    return await (await this.#blobs).read(digest)
  }

  async writeBlob (digest: string, data: Uint8Array<ArrayBuffer>): Promise<string> {
    this.#blobs ??= openBlobs()
    return await (await this.#blobs).write(digest, data)
  }

  readonly fetchRange = fetchRange
}

/** The engine's code comes with onnxruntime-web, so only when it is wanted. */
async function loadEngine ({ backend, origin, threads }: NodeConfig): Promise<JsEngine> {
  const { createEngine } = await import('../bridge/engine.ts')
  return await createEngine({ backend, ortUrl: new URL('/ort/', origin).href, threads })
}

async function bootPython (origin: string): Promise<PyodideInterface> {
  const step = (done: number): void => { report({ type: 'progress', stage: 'python', done, total: PYTHON_STEPS }) }
  const folder = new URL('/pyodide/', origin).href
  step(0)
  const { loadPyodide } = await import(`${folder}pyodide.mjs`) as typeof import('pyodide')
  const python = await loadPyodide({ indexURL: folder, convertNullToNone: true })
  step(2)
  const problems: string[] = []
  await python.loadPackage([PACKAGE], { messageCallback: () => {}, errorCallback: problem => { problems.push(problem) } })
  if (problems.length > 0) throw new Error(`the Python packages cannot be loaded: ${problems.join('; ')}`)
  step(PYTHON_STEPS)
  return python
}

async function fetchManifest (url: string): Promise<string> {
  const response = await fetch(url)
  if (!response.ok) throw new Error(`the model's manifest cannot be had: ${url} answered ${response.status}`)
  return await response.text()
}

async function start ({ config, network }: StartNode): Promise<void> {
  report({ type: 'state', state: 'starting', blocks: [], backend: config.backend, message: '' })
  const [python, manifest, engine] = await Promise.all([bootPython(config.origin), fetchManifest(config.model.manifest), loadEngine(config)])
  const worker = python.pyimport(`${PACKAGE}.browser.worker`) as PyProxy & { main: (bridge: Bridge, config: NodeConfig, manifest: string) => Promise<void> }
  await worker.main(new Bridge(network, engine), config, manifest)
}

function run (message: StartNode): void {
  start(message).then(
    () => { report({ type: 'stopped' }) },
    (error: unknown) => { report({ type: 'failed', error: nameOf(error), message: lastLine(describe(error)) }) }
  )
}

/** Python errors arrive as PythonError with a traceback; its type is the name that counts. */
function nameOf (error: unknown): string {
  return error instanceof Error && 'type' in error ? String(error.type) : 'Error'
}

function lastLine (traceback: string): string {
  const line = traceback.trimEnd().split('\n').at(-1) ?? ''
  console.error(traceback)
  return line.replace(/^[\w.]+: /, '')
}

addEventListener('message', ({ data }: MessageEvent<PageToNode>) => {
  if (data.type === 'start-node') run(data)
  else if (data.type === 'network-gone') receive(data)
  else {
    stopAsked = true
    stop?.()
  }
})
