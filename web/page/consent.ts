// Before the click: what would run, load, be used and be seen, and whether this browser can.
// Rule of the file: it only looks; nothing runs, loads or is stored by it.

import { type Check, preflight } from '../sdk/index.ts'
import { CANNOT, CHECKS, checkOf, element, made, OFFER, preflightOf, WORDS } from './words.ts'

type Backend = 'wasm' | 'webgpu'
const LITTLE_ROOM = 200e6 // bytes; the weights of a small model
const RELAY_PATIENCE = 5000 // ms

/** What the relay offers, of /kwaainet.json. */
export interface Offered { model: string, blocks: number, bytes: number, relays: string[] }

export async function askOffer (): Promise<Offered | null> {
  const response = await fetch('/kwaainet.json').catch(() => null)
  const { model, relay } = (await response?.json().catch(() => null) ?? {}) as Record<string, any>
  if (typeof model?.prefix !== 'string' || typeof model.num_blocks !== 'number') return null
  return { model: model.prefix, blocks: model.num_blocks, bytes: Number(model.bytes ?? 0), relays: Array.isArray(relay) ? relay.map(String) : [] }
}

export async function showOffer (offered: Offered, threads: number): Promise<void> {
  const { usage = 0 } = await estimate()
  const { deviceMemory = 4 } = navigator as { deviceMemory?: number }
  const lines: Array<[string, string]> = [
    [OFFER.runs[0], OFFER.runs[1](offered.model, offered.blocks)],
    [OFFER.loads[0], OFFER.loads[1](offered.bytes, usage)],
    [OFFER.uses[0], OFFER.uses[1](threads, deviceMemory * 2 ** 29)],
    [OFFER.seen[0], OFFER.seen[1]()]
  ]
  element('offer').replaceChildren(...lines.flatMap(([term, text]) => [made('dt', term), made('dd', text)]))
}

async function estimate (): Promise<StorageEstimate> {
  return await navigator.storage?.estimate?.().catch(() => null) ?? {}
}

export async function showChecks (wanted: Backend | undefined, relays: string[]): Promise<void> {
  const found = await preflight(wanted)
  const checks = [...found.checks, ...await more(relays)]
  element('checks').replaceChildren(...checks.map(({ name, ok, message }) => made('li', checkOf(name, ok, ok && !['WebGPU', 'threads'].includes(name) ? '' : message))))
  const { message = '' } = found.checks.find(({ name }) => name === 'WebGPU') ?? {}
  const failed = checks.filter(({ ok }) => !ok).length
  element('preflight-summary').textContent = found.ok ? preflightOf(found.backend, wanted === 'wasm' ? '' : message, failed) : CANNOT
  if (!found.ok) element<HTMLDetailsElement>('preflight').open = true
}

/** What the page can say beside the SDK. */
async function more (relays: string[]): Promise<Check[]> {
  const { quota = 0 } = await estimate()
  const checks: Array<[keyof typeof CHECKS, boolean]> = [
    ['memory', 'deviceMemory' in navigator],
    ['quota', quota > LITTLE_ROOM],
    ['relay', await isReachable(relays)],
    ['jspi', 'Suspending' in WebAssembly]
  ]
  return checks.map(([name, ok]) => ({ name: CHECKS[name][0], ok, required: false, message: CHECKS[name][1] }))
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
}
