// The STUN and TURN servers that WebRTC may ask, checked: a wrong one would fail every connection later.

import type { IceServer } from '../worker/messages.ts'

const MOST = 8 // browsers warn of slow starts from five on
const LONGEST = 256 // characters of an address, name or secret
const STUN = /^stuns?:[^\s@?/]+$/
const TURN = /^turns?:[^\s@?/]+(\?transport=(udp|tcp))?$/

/** What RTCPeerConnection takes, from an origin or an embedder. Throws an Error whose text is for people. */
export function readIceServers (value: unknown, source: string): IceServer[] {
  if (value === undefined || value === null) return []
  if (!Array.isArray(value) || value.length > MOST) throw new Error(`${source} must give at most ${MOST} ICE servers as a list`)
  return value.map(server => readServer(server, source))
}

function readServer (value: unknown, source: string): IceServer {
  const { urls, username, credential } = (value ?? {}) as Record<string, unknown>
  const list = Array.isArray(urls) ? urls : [urls]
  for (const url of list) {
    if (!isText(url) || !(STUN.test(url) || TURN.test(url))) throw new Error(`${source} names an ICE server ${JSON.stringify(url)}; give stun:HOST:PORT or turn:HOST:PORT`)
  }
  if (list.length === 0 || list.length > MOST) throw new Error(`${source} names an ICE server with ${list.length} addresses; give 1 to ${MOST}`)
  const isTurn = list.some((url: string) => TURN.test(url))
  if (!isTurn) return { urls: list }
  if (!isText(username) || !isText(credential)) throw new Error(`${source} names ${list.join(' ')} without a username and a credential; TURN needs both`)
  return { urls: list, username, credential }
}

function isText (value: unknown): value is string {
  return typeof value === 'string' && value !== '' && value.length <= LONGEST
}
