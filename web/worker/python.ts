// What the workers with Python in them share: what only JavaScript can do.
// Rule of the file: no Python in strings, no decisions of a node or client.

import { describe } from '../bridge/faults.ts'
import { fetchRange, type RangeAnswer } from '../bridge/ranges.ts'
import type { BlobFiles } from '../bridge/store.ts'
import type { LoadMeter } from './loading.ts'
import type { Failed, NetworkGone, NetworkToNode, NodeToNetwork } from './messages.ts'

const LONGEST_TIMER = 2 ** 31 - 1 // ms; setTimeout takes more for nothing

/** `what` names the document in the error; `integrity` is what `fetch` checks it by. */
export async function fetchText (url: string, what: string, integrity = ''): Promise<string> {
  const response = await fetch(url, { integrity })
  if (!response.ok) throw new Error(`${what} cannot be had: ${url} answered ${response.status}`)
  return await response.text()
}

/** What became of a worker's main. Python errors arrive as PythonError with a traceback; its type is the name that counts. */
export function failed (error: unknown): Failed {
  const traceback = describe(error)
  const line = traceback.trimEnd().split('\n').at(-1) ?? ''
  console.error(traceback)
  const name = error instanceof Error && 'type' in error ? String(error.type) : 'Error'
  return { type: 'failed', error: name, message: line.replace(/^[\w.]+: /, '') }
}

/** Messages of the network worker for Python; those that come before it listens wait. */
export class Inbox {
  #deliver: ((message: NetworkToNode) => void) | null = null
  readonly #early: NetworkToNode[] = []

  receive (message: NetworkToNode | NetworkGone): void {
    if (this.#deliver === null) this.#early.push(message)
    else this.#deliver(message)
  }

  /** Streams' messages go to `take`: as plain arguments they cross to Python at a third of the cost. */
  listen (receiver: (message: NetworkToNode) => void, take: (id: number, body: Uint8Array) => void): void {
    this.#deliver = message => {
      if (message.type === 'data') take(message.id, message.body)
      else receiver(message)
    }
    for (const message of this.#early.splice(0)) this.#deliver(message)
  }
}

/** The part of `bridge` that every Python main sees. Functions Python passes in are proxies it keeps alive. */
export class PythonBridge {
  readonly #network: MessagePort
  readonly #inbox: Inbox
  readonly #waking = new MessageChannel()
  #ring: () => void = () => {}
  #alarm: ReturnType<typeof setTimeout> | undefined
  readonly #blobs: BlobFiles
  readonly #meter: LoadMeter

  constructor (network: MessagePort, inbox: Inbox, blobs: BlobFiles, meter: LoadMeter) {
    this.#network = network
    this.#inbox = inbox
    this.#blobs = blobs
    this.#meter = meter
    network.onmessage = ({ data }: MessageEvent<NetworkToNode>) => { inbox.receive(data) }
  }

  /** A message for the network worker; its body is transferred. */
  post (message: NodeToNetwork): void {
    this.#network.postMessage(message, 'body' in message && message.body !== undefined ? [message.body.buffer] : [])
  }

  postData (id: number, body: Uint8Array<ArrayBuffer>): void {
    this.post({ type: 'data', id, body })
  }

  /** Messages of the network worker, those that came before included. */
  listen (receiver: (message: NetworkToNode) => void, take: (id: number, body: Uint8Array) => void): void {
    this.#inbox.listen(receiver, take)
  }

  /** What `wake` and `wakeIn` have called, each time in a task of its own. */
  onTurn (turn: () => void, ring: () => void): void {
    this.#ring = ring
    this.#waking.port1.onmessage = () => { turn() }
  }

  readonly wake = (): void => { this.#waking.port2.postMessage(null) }

  wakeIn (milliseconds: number): void {
    clearTimeout(this.#alarm)
    this.#alarm = setTimeout(() => { this.#ring() }, Math.min(Math.ceil(milliseconds), LONGEST_TIMER))
  }

  async readBlob (digest: string): Promise<Uint8Array | null> {
    return await this.#blobs.read(digest)
  }

  async writeBlob (digest: string, data: Uint8Array<ArrayBuffer>): Promise<string> {
    return await this.#blobs.write(digest, data)
  }

  async readPart (digest: string): Promise<Uint8Array | null> {
    return await this.#blobs.readPart(digest)
  }

  async writePart (digest: string, offset: number, data: Uint8Array<ArrayBuffer>): Promise<string> {
    return await this.#blobs.writePart(digest, offset, data)
  }

  async fetchRange (url: string, offset: number, length: number): Promise<RangeAnswer> {
    return await fetchRange(url, offset, length, this.#meter)
  }
}
