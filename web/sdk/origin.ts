// What an origin says of itself in /kwaainet.json, checked.

import type { IceServer, Model } from '../worker/messages.ts'
import { readIceServers } from './ice.ts'

export interface Origin { url: string, relays: string[], iceServers: IceServer[], model: Model, version: string }

/** Ask the origin for all of it, and for `model` where one is named; throws an Error whose text is for people. */
export async function askOrigin (relay: string | URL, model?: string, signal?: AbortSignal): Promise<Origin> {
  if (!URL.canParse(relay)) throw new Error(`${relay} is no address of a relay; give its page's, such as https://relay.example`)
  const url = new URL(relay).origin
  const response = await fetch(new URL('/kwaainet.json', url), { cache: 'no-store', ...(signal === undefined ? {} : { signal }) }).catch(() => null)
  signal?.throwIfAborted()
  if (response === null) throw new Error(`${url} does not answer; is the relay running?`)
  if (!response.ok) throw new Error(`${url} is no KwaaiNet relay: /kwaainet.json answered ${response.status}`)
  const origin = readOrigin(url, await response.json().catch(() => null))
  if (model !== undefined && model !== origin.model.prefix) throw new Error(`${url} offers ${origin.model.prefix}, not ${model}`)
  return origin
}

/** Check the document; the relays are those a page at `url` can dial. */
export function readOrigin (url: string, document: unknown): Origin {
  const { relay, ice_servers: iceServers, model, version } = (document ?? {}) as Record<string, unknown>
  if (!Array.isArray(relay)) throw new Error(`${url} names no relay in /kwaainet.json`)
  const secure = url.startsWith('https:')
  const relays = relay.filter((address): address is string => typeof address === 'string' && isDialable(address, secure))
  if (relays.length === 0) throw new Error(`${url} names no relay that a browser can dial (a ${secure ? 'wss' : 'ws or wss'} address ending in /p2p/ID): ${relay.join(' ')}`)
  if (!isModel(model)) throw new Error(`${url} offers no model; start its relay with --model PATH`)
  return {
    url,
    relays,
    iceServers: readIceServers(iceServers, url),
    model: {
      ...model,
      manifest: new URL(model.manifest, url).href,
      files: new URL(model.files, url).href,
      ...(model.text === undefined ? {} : { text: { ...model.text, url: new URL(model.text.url, url).href } })
    },
    version: String(version)
  }
}

/** Throws unless `blocks` is empty, START:END within the model, or auto:COUNT. */
export function checkBlocks (blocks: string, numBlocks: number): void {
  if (blocks === '') return
  const [, count] = blocks.match(/^auto:(\d+)$/) ?? []
  if (count !== undefined) {
    if (Number(count) < 1 || Number(count) > numBlocks) throw new Error(`"${blocks}": the model has ${numBlocks} blocks; give auto:1 to auto:${numBlocks}`)
    return
  }
  const [, start, end] = blocks.match(/^(\d+):(\d+)$/) ?? []
  if (start === undefined || Number(start) >= Number(end)) throw new Error(`"${blocks}" is not a range of blocks; give START:END, such as 0:${numBlocks}`)
  if (Number(end) > numBlocks) throw new Error(`blocks ${blocks} were asked for; the model has 0:${numBlocks}`)
}

function isDialable (address: string, secure: boolean): boolean {
  return (secure ? /\/(wss|tls\/ws)\/p2p\/\w+$/ : /\/(ws|wss)\/p2p\/\w+$/).test(address)
}

function isModel (value: unknown): value is Model {
  const model = value as Partial<Model> | null
  return typeof model?.prefix === 'string' && typeof model.num_blocks === 'number' &&
    typeof model.manifest === 'string' && typeof model.files === 'string' &&
    (model.text === undefined || (typeof model.text.url === 'string' && typeof model.text.integrity === 'string'))
}
