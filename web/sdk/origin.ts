// What an origin says of itself in /kwaainet.json, checked.

import type { IceServer, Model } from '../worker/messages.ts'
import { readIceServers } from './ice.ts'
import { Problem } from './problem.ts'

/** The addresses of the relay's workers; they come with it, so that they understand each other. */
export interface Workers { network: string, node: string, client: string }

/** `bytes` are those of all blocks, the most that a node fetches. */
export interface OfferedModel extends Model { bytes: number }

/** `models` has at least one; the first is for who names none. */
/** `nearBits`: of its place among peers that a tab's id should share with the first relay's. `ahead`: seconds that this machine's clock is ahead of the relay's, 0 where it is about right. */
export interface Origin { url: string, relays: string[], iceServers: IceServer[], models: OfferedModel[], workers: Workers, version: string, ahead: number, nearBits: number }

const MOST_MODELS = 64

const CLOCK_ERROR = 10 // s that a clock may be wrong

const BESIDE_TIMEOUT = 5000 // ms
const MOST_BITS = 14
const MOST_BESIDE = 16 // addresses

/** Of the messages between this SDK and a relay's workers: raised when an older side cannot understand them. */
export const API_VERSION = 1

/** Ask the origin for all of it, and for `model` (empty or absent: its first); throws a Problem. */
export async function askOrigin (relay: string | URL, model = '', signal?: AbortSignal): Promise<Origin & { model: OfferedModel }> {
  if (!URL.canParse(relay)) throw new Problem('relay-address', `${relay} is no address of a relay; give its page's, such as https://relay.example`)
  const url = new URL(relay).origin
  const asked = Date.now()
  const response = await fetch(new URL('/kwaainet.json', url), { cache: 'no-store', ...(signal === undefined ? {} : { signal }) }).catch(() => null)
  signal?.throwIfAborted()
  if (response === null) throw new Problem('relay-silent', `${url} does not answer; is the relay running?`)
  if (!response.ok) throw new Problem('relay-foreign', `${url} is no KwaaiNet relay: /kwaainet.json answered ${response.status}`)
  const origin = readOrigin(url, await response.json().catch(() => null), (asked + Date.now()) / 2000)
  const chosen = model === '' ? origin.models[0] : origin.models.find(({ prefix }) => prefix === model)
  if (chosen === undefined) throw new Problem('unknown-model', `${url} offers ${origin.models.map(({ prefix }) => prefix).join(', ')}, not ${model}`, { model })
  return { ...origin, model: chosen }
}

/** What relays beside the first are dialled at: multiaddrs as they are, of pages those that they name. One that does not answer is left out. */
export async function askRelays (given: Array<string | URL>): Promise<string[]> {
  const found = await Promise.all(given.map(async one => {
    if (String(one).startsWith('/')) return [String(one)]
    if (!URL.canParse(one)) throw new Problem('relay-address', `${one} is neither a relay's page, such as https://relay.example, nor a multiaddr`)
    const response = await fetch(new URL('/kwaainet.json', one), { cache: 'no-store', signal: AbortSignal.timeout(BESIDE_TIMEOUT) }).catch(() => null)
    const { relay } = (response?.ok === true ? await response.json().catch(() => null) : null) ?? {}
    return Array.isArray(relay) ? relay.map(String) : []
  }))
  const secure = globalThis.location?.protocol === 'https:'
  return found.flat().filter(address => isDialable(address, secure)).slice(0, MOST_BESIDE)
}

/** Check the document, written at `now` by our clock (s); the relays are those a page at `url` can dial. */
export function readOrigin (url: string, document: unknown, now = Date.now() / 1000): Origin {
  const { time, near_bits: bits, relay, ice_servers: iceServers, model, models = [model], workers, version } = (document ?? {}) as Record<string, unknown>
  if (!Array.isArray(relay)) throw new Problem('relay-foreign', `${url} names no relay in /kwaainet.json`)
  const secure = url.startsWith('https:')
  const relays = relay.filter((address): address is string => typeof address === 'string' && isDialable(address, secure))
  if (relays.length === 0) throw new Problem('relay-undialable', `${url} names no relay that a browser can dial (a ${secure ? 'wss' : 'ws or wss'} address ending in /p2p/ID): ${relay.join(' ')}`)
  if (!Array.isArray(models) || models.length === 0 || models.length > MOST_MODELS || !models.every(isModel)) throw new Problem('no-model', `${url} offers no model; start its relay with --model PATH`)
  if (!isWorkers(workers)) throw new Problem('relay-foreign', `${url} names no workers in /kwaainet.json; build its page: make setup`)
  if (workers.api !== API_VERSION) throw new Problem('relay-version', `${url} speaks version ${workers.api} of the SDK, this page ${API_VERSION}; use the kwaainet-web that fits its version ${String(version)}`)
  const [network, node, client] = [workers.network, workers.node, workers.client].map(path => new URL(path, url).href) as [string, string, string]
  return {
    url,
    relays,
    workers: { network, node, client },
    iceServers: readIceServers(iceServers, url),
    models: models.map(model => ({
      ...model,
      bytes: Number((model as Partial<OfferedModel>).bytes) || 0,
      manifest: new URL(model.manifest, url).href,
      files: new URL(model.files, url).href,
      ...(model.text === undefined ? {} : { text: { ...model.text, url: new URL(model.text.url, url).href } })
    })),
    version: String(version),
    nearBits: Number.isInteger(bits) ? Math.min(Math.max(bits as number, 0), MOST_BITS) : 0,
    ahead: typeof time === 'number' && Math.abs(now - time) > CLOCK_ERROR ? now - time : 0
  }
}

/** Throws unless `blocks` is empty, START:END within the model, or auto:COUNT. */
export function checkBlocks (blocks: string, numBlocks: number): void {
  if (blocks === '') return
  const [, count] = blocks.match(/^auto:(\d+)$/) ?? []
  if (count !== undefined) {
    if (Number(count) < 1 || Number(count) > numBlocks) throw new Problem('blocks', `"${blocks}": the model has ${numBlocks} blocks; give auto:1 to auto:${numBlocks}`, { blocks, most: String(numBlocks) })
    return
  }
  const [, start, end] = blocks.match(/^(\d+):(\d+)$/) ?? []
  if (start === undefined || Number(start) >= Number(end)) throw new Problem('blocks', `"${blocks}" is not a range of blocks; give START:END, such as 0:${numBlocks}`, { blocks, most: String(numBlocks) })
  if (Number(end) > numBlocks) throw new Problem('blocks', `blocks ${blocks} were asked for; the model has 0:${numBlocks}`, { blocks, most: String(numBlocks) })
}

function isDialable (address: string, secure: boolean): boolean {
  if (/\/udp\/\d+\/webrtc-direct\/certhash\/[\w-]+\/p2p\/\w+$/.test(address)) return true
  return (secure ? /\/(wss|tls\/ws)\/p2p\/\w+$/ : /\/(ws|wss)\/p2p\/\w+$/).test(address)
}

function isWorkers (value: unknown): value is Workers & { api: number } {
  const workers = value as Partial<Workers & { api: number }> | null | undefined
  return typeof workers?.api === 'number' && [workers.network, workers.node, workers.client].every(path => typeof path === 'string')
}

function isModel (value: unknown): value is Model {
  const model = value as Partial<Model> | null
  return typeof model?.prefix === 'string' && typeof model.num_blocks === 'number' &&
    typeof model.manifest === 'string' && typeof model.files === 'string' &&
    (model.text === undefined || (typeof model.text.url === 'string' && typeof model.text.integrity === 'string'))
}
