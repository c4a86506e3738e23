// Before the click: what would run, load, be used and be seen, and whether this browser can.
// Rule of the file: it only looks; nothing runs, loads or is stored by it.

import { type Check, planThreads, preflight } from '../sdk/index.ts'
import { Latest } from './latest.ts'
import { CANNOT, CHECKS, checkOf, element, GRAPHICS, made, OFFER, preflightOf, threadsTaken, WORDS } from './words.ts'

type Backend = 'wasm' | 'webgpu'
const LITTLE_ROOM = 200e6 // bytes; the weights of a small model
const RELAY_PATIENCE = 10_000 // ms; a busy machine may stand still for some seconds

const [offers, looks] = [new Latest(), new Latest()] // another model may be chosen before the answer is there

/** A model that the relay offers; `bytes` are those of all blocks, `chats` whether it can be talked to. */
export interface Offered { model: string, blocks: number, bytes: number, chats: boolean }

/** What the relay offers, of /kwaainet.json, the model for who chooses none first. */
export interface Offer { models: Offered[], relays: string[] }

export async function askOffer (): Promise<Offer> {
  const response = await fetch('/kwaainet.json').catch(() => null)
  const { models, relay } = (await response?.json().catch(() => null) ?? {}) as Record<string, any>
  const found = (Array.isArray(models) ? models : []).filter(model => typeof model?.prefix === 'string' && typeof model.num_blocks === 'number')
  return {
    models: found.map(({ prefix, num_blocks: blocks, bytes, text }) => ({ model: prefix, blocks, bytes: Number(bytes) || 0, chats: text !== undefined })),
    relays: Array.isArray(relay) ? relay.map(String) : []
  }
}

export async function showOffer ({ model, blocks, bytes }: Offered, threads: number): Promise<void> {
  const isNews = offers.ask()
  const { usage = 0 } = await estimate()
  if (!isNews()) return
  const lines: Array<[string, string]> = [
    [OFFER.runs[0], OFFER.runs[1](model, blocks)],
    [OFFER.loads[0], OFFER.loads[1](bytes, usage)],
    [OFFER.uses[0], OFFER.uses[1](threads, halfTheMemory() ?? 2 * 2 ** 30)],
    [OFFER.seen[0], OFFER.seen[1]()]
  ]
  element('offer').replaceChildren(...lines.flatMap(([term, text]) => [made('dt', term), made('dd', text)]))
}

/** What a node takes at most unless told otherwise; null where the browser does not say how much there is. */
function halfTheMemory (): number | null {
  const { deviceMemory } = navigator as { deviceMemory?: number } // GiB
  return deviceMemory === undefined ? null : deviceMemory * 2 ** 29
}

async function estimate (): Promise<StorageEstimate> {
  return await navigator.storage?.estimate?.().catch(() => null) ?? {}
}

/** Look and tell whether this browser can contribute. */
export async function showChecks (wanted: Backend | undefined, bytes: number, relays: string[]): Promise<void> {
  const isNews = looks.ask()
  const found = await preflight(wanted)
  const checks = [...found.checks.map(toCheck), ...await more(bytes, relays)]
  if (!isNews()) return
  element('checks').replaceChildren(...checks.map(({ name, ok, message }) => {
    const line = made('li', checkOf(name, ok, message))
    line.dataset.ok = String(ok)
    return line
  }))
  const { code = '' } = found.checks.find(({ name }) => name === 'WebGPU') ?? {}
  const failed = checks.filter(({ ok }) => !ok).length
  element('preflight-summary').textContent = found.ok ? preflightOf(found.backend, wanted === 'wasm' ? '' : GRAPHICS[code] ?? '', failed) : CANNOT
  element<HTMLButtonElement>('contribute').disabled = !found.ok
  if (!found.ok) element<HTMLDetailsElement>('preflight').open = true
}

/** One of the SDK's checks in the page's words, with its fix. */
function toCheck ({ name, ok, required, code = '' }: Check): Check {
  const words = CHECKS[name] ?? [name, '']
  if (name === 'threads') return { name: words[0], ok: crossOriginIsolated, required, message: crossOriginIsolated ? threadsTaken(planThreads().count, navigator.hardwareConcurrency) : words[1] }
  return { name: words[0], ok, required, message: name === 'WebGPU' ? graphics(ok, code, words[1]) : ok ? '' : words[1] }
}

function graphics (ok: boolean, code: string, fix: string): string {
  const what = GRAPHICS[code] ?? ''
  return ok ? what : `${what}. ${fix}`
}

/** What the page can say beside the SDK. */
async function more (bytes: number, relays: string[]): Promise<Check[]> {
  const { quota = 0 } = await estimate()
  const memory = halfTheMemory()
  const checks: Array<[string, boolean]> = [
    ['memory', memory === null || bytes <= memory],
    ['quota', quota > Math.max(LITTLE_ROOM, bytes)],
    ['relay', await isReachable(relays)],
    ['jspi', 'Suspending' in WebAssembly]
  ]
  return checks.map(([name, ok]) => {
    const [label, fix] = CHECKS[name] as readonly [string, string]
    return { name: label, ok, required: false, message: ok ? '' : fix }
  })
}

/** Whether a WebSocket to one of the relay's addresses opens. */
async function isReachable (relays: string[]): Promise<boolean> {
  const urls = relays.map(webSocketUrl).filter(url => url !== null)
  const opened = urls.map(async url => await new Promise<void>((resolve, reject) => {
    const socket = new WebSocket(url)
    const end = (settle: () => void): void => {
      clearTimeout(timer)
      settle()
      socket.close()
    }
    const timer = setTimeout(() => { end(reject) }, RELAY_PATIENCE)
    socket.onopen = () => { end(resolve) }
    socket.onerror = () => { end(reject) }
  }))
  return await Promise.any(opened).then(() => true, () => false)
}

/** The URL of a WebSocket multiaddr that a page may dial; null for others. */
export function webSocketUrl (address: string): string | null {
  const [, kind, host, port, way] = address.match(/^\/(ip4|ip6|dns|dns4|dns6)\/([^/]+)\/tcp\/(\d+)\/(ws|wss|tls\/ws)(?:\/p2p\/\w+)?$/) ?? []
  if (host === undefined || port === undefined) return null
  return `${way === 'ws' ? 'ws' : 'wss'}://${kind === 'ip6' ? `[${host}]` : host}:${port}/`
}

export function showNoOffer (): void {
  element('preflight-summary').textContent = WORDS.noOffer ?? ''
  element<HTMLButtonElement>('contribute').disabled = true
}
