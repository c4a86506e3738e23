// The node worker: boots Python and hands the node what only JavaScript can do.
// Rule of the file: no Python in strings, no decisions of the node.

import type { PyProxy } from 'pyodide/ffi'
import type { JsEngine } from '../bridge/engine.ts'
import { makeWorker } from '../bridge/foreign_worker.ts'
import type { JsGradients } from '../bridge/gradients.ts'
import { showLife } from '../bridge/life.ts'
import { RemoteBlobs } from './blobs.ts'
import { bootPython } from './boot.ts'
import { LoadMeter } from './loading.ts'
import { blobsIn, blobsOf } from './manifest.ts'
import type { NodeConfig, NodeToPage, PageToNode, SetLimits, StartNode } from './node_messages.ts'
import { failed, fetchText, Inbox, PythonBridge } from './python.ts'

declare const THREAD_WORKER: string // a path with its version, set by build/web.mjs
declare const ORT: string // the path of onnxruntime-web's folder, with a version in it; set by build/web.mjs

let stop: ((drain: number) => void) | null = null
let stopAsked: number | null = null // the shortest time asked for before anybody could be told
let limit: ((message: SetLimits) => void) | null = null
let limits: SetLimits | null = null // the last that were said before anybody could be told
const inbox = new Inbox()
const meter = new LoadMeter(report)

function report (message: NodeToPage): void {
  postMessage(message)
}

/** What kwaainet.browser.worker sees as `bridge`. */
class Bridge extends PythonBridge {
  readonly engine: JsEngine
  readonly #blobs: RemoteBlobs
  readonly #config: NodeConfig

  constructor (network: MessagePort, engine: JsEngine, blobs: RemoteBlobs, config: NodeConfig) {
    super(network, inbox, blobs, meter)
    this.#blobs = blobs
    this.engine = engine
    this.#config = config
  }

  /** What trains runs on the processor, in a heap of its own that goes when nobody trains any more. */
  async createGradients (): Promise<JsGradients> {
    const { createGradients } = await import('../bridge/gradients.ts')
    return await createGradients(ortUrl(this.#config), this.#config.threads)
  }

  report (message: NodeToPage): void {
    if (message.type === 'progress') meter.python(message)
    else report(message)
    if (message.type === 'state' && message.state === 'online') void this.#tellStorage()
  }

  /** All weights have been read or written. */
  async #tellStorage (): Promise<void> {
    this.#blobs.forget()
    if (this.#config.cache === 0) return // nobody wants to know
    report({ type: 'storage', ...await this.#blobs.room() })
  }

  onStop (callback: (drain: number) => void): void {
    stop = callback
    if (stopAsked !== null) callback(stopAsked)
  }

  onLimits (callback: (message: SetLimits) => void): void {
    limit = callback
    if (limits !== null) callback(limits)
  }
}

/** The engine's code is not small, so only when it is wanted. */
async function loadEngine (config: NodeConfig): Promise<JsEngine> {
  const { createEngine } = await import('../bridge/engine.ts')
  performance.mark('engine loaded')
  return await createEngine({
    backend: config.backend,
    ortUrl: ortUrl(config),
    threads: {
      threads: config.threads,
      launch: () => makeWorker(new URL(THREAD_WORKER, config.origin).href),
      tell: (count, message) => {
        if (message !== '') console.warn('node worker:', message)
        report({ type: 'threads', count, message })
      }
    }
  })
}

/** The manifest; what it lets us know already is read while Python starts. */
async function expectBlobs ({ model, blocks }: NodeConfig, blobs: RemoteBlobs): Promise<string> {
  const manifest = await fetchText(model.manifest, "the model's manifest")
  const all = blobsOf(manifest)
  blobs.expect(all, blobsIn(all, blocks))
  performance.mark('manifest read')
  return manifest
}

function ortUrl ({ origin }: NodeConfig): string {
  return new URL(ORT, origin).href
}

async function start ({ config, network }: StartNode): Promise<void> {
  await showLife()
  report({ type: 'state', state: 'starting', blocks: [], backend: config.backend, weights: '', message: '' })
  const blobs = RemoteBlobs.start(config.origin, config.cache)
  const [python, manifest, engine] = await Promise.all([
    bootPython(config.origin, [], meter), expectBlobs(config, blobs), loadEngine(config)
  ])
  performance.mark('main called')
  const worker = python.pyimport('kwaainet.browser.worker') as PyProxy & { main: (bridge: Bridge, config: NodeConfig, manifest: string) => Promise<void> }
  await worker.main(new Bridge(network, engine, blobs, config), config, manifest)
}

function run (message: StartNode): void {
  start(message).then(
    () => { report({ type: 'stopped' }) },
    (error: unknown) => { report(failed(error)) }
  )
}

addEventListener('message', ({ data }: MessageEvent<PageToNode>) => {
  if (data.type === 'start-node') run(data)
  else if (data.type === 'network-gone') inbox.receive(data)
  else if (data.type === 'limits') limit === null ? limits = data : limit(data)
  else {
    stopAsked = Math.min(data.drain, stopAsked ?? data.drain)
    stop?.(data.drain)
  }
})
