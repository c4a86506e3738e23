// A page for tests only: a peer with the network worker of a contributing tab and no Python, which
// echoes every call and stream message, and does what a test tells it by the functions at the end.

import { hostRtc } from '../../../web/bridge/rtc.ts'
import { FRAME_HEADER_SIZE, type NetworkToNode, type NetworkToPage, type NodeToNetwork, type PeerReport } from '../../../web/worker/messages.ts'

interface Options { relays: string[], direct?: boolean, forward?: boolean }

const UNARY = 'Echo.rpc_call'
const STREAM = 'Echo.rpc_stream'

type Ending = Extract<NetworkToNode, { type: 'result' | 'fault' | 'data' | 'close' | 'cancel' }>

let port: MessagePort
let peers: PeerReport[] = []
let lastId = 1
let endRtc = (): void => {}
const heard = new Map<number, { queue: Ending[], wake: () => void }>()

function post (message: NodeToNetwork): void {
  port.postMessage(message, 'body' in message && message.body !== undefined ? [message.body.buffer] : [])
}

/** The next message about a call or stream of ours; an ending that is no answer is thrown. */
async function next (id: number): Promise<Ending> {
  const line = heard.get(id)!
  while (line.queue.length === 0) await new Promise<void>(resolve => { line.wake = resolve })
  const message = line.queue.shift()!
  if (message.type === 'fault') throw new Error(`${message.error}: ${message.message}`)
  if (message.type === 'close' || message.type === 'cancel') throw new Error(`the stream ended by ${message.type}`)
  return message
}

function receive (message: NetworkToNode): void {
  if (message.type === 'call') post({ type: 'result', id: message.id, body: message.body })
  else if (message.type === 'data') {
    const { id, body } = message
    post({ type: 'credit', id, bytes: FRAME_HEADER_SIZE + body.length })
    if (!tell(message)) post({ type: 'data', id, body })
  } else if (message.type === 'end') post({ type: 'close', id: message.id })
  else if (message.type === 'result' || message.type === 'fault' || message.type === 'close' || message.type === 'cancel') tell(message)
}

function tell (message: Ending): boolean {
  const line = heard.get(message.id)
  line?.queue.push(message)
  line?.wake()
  return line !== undefined
}

function newId (): number {
  lastId += 2
  heard.set(lastId, { queue: [], wake: () => {} })
  return lastId
}

/** Take a slot on the relay; our peer id. */
async function begin ({ relays, direct = true, forward = false }: Options): Promise<string> {
  const network = new Worker(new URL('network.js', import.meta.url), { type: 'module' })
  network.onmessage = ({ data }: MessageEvent<NetworkToPage>) => { if (data.type === 'peers') peers = data.peers }
  const rpc = new MessageChannel()
  const rtc = new MessageChannel()
  endRtc = hostRtc(rtc.port1, forward)
  port = rpc.port2
  const identity = new Promise<string>(resolve => {
    port.onmessage = ({ data }: MessageEvent<NetworkToNode>) => {
      if (data.type === 'identity') resolve(data.peer_id)
      else receive(data)
    }
  })
  network.postMessage({ relays, node: rpc.port1, rtc: rtc.port2, direct, ice_servers: [] }, [rpc.port1, rtc.port2])
  post({ type: 'serve', protocol: UNARY, kind: 'unary' })
  post({ type: 'serve', protocol: STREAM, kind: 'stream' })
  const id = newId()
  post({ type: 'listen', id })
  await next(id)
  return await identity
}

/** A unary echo of `size` bytes; ms. */
async function call (peer: string, size: number): Promise<number> {
  const id = newId()
  const started = performance.now()
  post({ type: 'call', id, peer, protocol: UNARY, body: new Uint8Array(size) })
  const answer = await next(id)
  heard.delete(id)
  if (!('body' in answer) || answer.body?.length !== size) throw new Error('the echo has another size')
  return performance.now() - started
}

/** Open a stream to a peer. */
async function open (peer: string, protocol = STREAM): Promise<number> {
  const id = newId()
  post({ type: 'open', id, peer, protocol })
  await next(id)
  return id
}

/** `count` echoes of `size` bytes on a stream, one after the other; ms of each. */
async function echo (id: number, size: number, count = 1): Promise<number[]> {
  const times: number[] = []
  for (let turn = 0; turn < count; turn++) {
    const started = performance.now()
    post({ type: 'data', id, body: new Uint8Array(size).fill(turn) })
    const answer = await next(id)
    if (!('body' in answer) || answer.body?.length !== size || (size > 0 && answer.body[size - 1] !== turn % 256)) throw new Error('the echo is another message')
    times.push(performance.now() - started)
  }
  return times
}

/** Wait until a stream ends; how it did. */
async function ending (id: number): Promise<string> {
  for (;;) {
    try {
      await next(id)
    } catch (error) {
      return String(error)
    }
  }
}

/** Break every direct connection; our own network worker is not told. */
function cut (): void {
  endRtc()
}

/** Give a stream up. */
function cancel (id: number): void {
  heard.delete(id)
  post({ type: 'cancel', id, reason: 'the test is done with it' })
}

/** What the network worker last said of `peer`. */
function connection (peer: string): PeerReport | null {
  return peers.find(report => report.peer === peer) ?? null
}

Object.assign(globalThis, { begin, call, open, echo, cancel, ending, cut, connection })
