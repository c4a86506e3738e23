// The blobs of the store worker, seen from a worker with Python in it.
// Rule of the file: what was read ahead is handed out once; a store worker that breaks, or owes an answer and says
// nothing, is a store that keeps nothing.

import { describe } from '../bridge/faults.ts'
import { makeWorker } from '../bridge/foreign_worker.ts'
import type { Bytes } from '../bridge/protobuf.ts'
import type { BlobFiles, Known, Room } from '../bridge/store.ts'
import type { FromStore, ToStore } from './store_messages.ts'

declare const STORE_WORKER: string // its path, with a version in it; set by build/web.mjs

const MOST_AHEAD = 512 * 2 ** 20 // bytes read before anybody asks: they wait in memory

const SILENCE = 30_000 // ms without a word of a store that owes one: Chromium has been seen to forget what a file was asked for

type Result = Extract<FromStore, { type: 'answer' }>['result']
type Request<Message> = Message extends { id: number } ? Omit<Message, 'id'> : never

/** As far as a Worker is needed here. */
export interface StorePort {
  postMessage: (message: ToStore, transfer: Transferable[]) => void
  onmessage: ((event: MessageEvent<FromStore>) => void) | null
  onerror: ((event: ErrorEvent) => void) | null
}

export class RemoteBlobs implements BlobFiles {
  readonly #port: StorePort
  readonly #asked = new Map<number, { resolve: (result: Result) => void, otherwise: () => Result }>()
  readonly #ahead = new Map<string, { come: (data: Bytes | null) => void, data: Promise<Bytes | null> }>()
  readonly #coming = new Set<string>() // of those ahead, what has not come
  #silence: ReturnType<typeof setTimeout> | undefined
  #broken = ''
  #ids = 0

  /** `budget`: bytes that may be kept, absent: a share of the browser's quota. */
  constructor (port: StorePort, budget?: number) {
    this.#port = port
    port.onmessage = ({ data }) => { this.#take(data) }
    port.onerror = event => { this.#break(event.message || 'the store worker could not be loaded') }
    this.#port.postMessage({ type: 'open', ...(budget === undefined ? {} : { budget }) }, [])
  }

  static start (origin: string, budget?: number): RemoteBlobs {
    return new RemoteBlobs(makeWorker(new URL(STORE_WORKER, origin).href), budget)
  }

  /** Say what blobs there are, and have those that are needed read before they are asked for. */
  expect (known: Known[], needed: Known[]): void {
    if (this.#broken !== '') return
    let left = MOST_AHEAD
    for (const { digest, length } of needed) {
      if (!this.#ahead.has(digest) && (left -= length) >= 0) {
        this.#ahead.set(digest, deferred())
        this.#coming.add(digest)
      }
    }
    this.#port.postMessage({ type: 'expect', known, needed, ahead: [...this.#ahead.keys()] }, [])
    this.#listen()
  }

  /** Let go of what was read ahead and not asked for. */
  forget (): void {
    for (const { come } of this.#ahead.values()) come(null)
    this.#ahead.clear()
  }

  async read (digest: string): Promise<Bytes | null> {
    const ahead = this.#ahead.get(digest)
    if (ahead === undefined) return await this.#ask({ type: 'read', digest }) as Bytes | null
    const data = await ahead.data
    if (this.#ahead.delete(digest)) return data
    return await this.#ask({ type: 'read', digest }) as Bytes | null // somebody else was handed it
  }

  async write (digest: string, data: Bytes): Promise<string> {
    return await this.#ask({ type: 'write', digest, data }) as string
  }

  async readPart (digest: string): Promise<Bytes | null> {
    return await this.#ask({ type: 'read-part', digest }) as Bytes | null
  }

  async writePart (digest: string, offset: number, data: Bytes): Promise<string> {
    return await this.#ask({ type: 'write-part', digest, offset, data }) as string
  }

  async room (): Promise<Room> {
    const nothing = { kept: false, needed: 0, room: 0, message: `this browser keeps no weights: ${this.#broken}` }
    return this.#broken === '' ? await this.#ask({ type: 'room' }) as Room | null ?? nothing : nothing
  }

  async #ask (request: Request<ToStore>): Promise<Result> {
    const otherwise = (): Result => request.type.startsWith('write') ? this.#broken : null
    if (this.#broken !== '') return otherwise()
    const id = ++this.#ids
    return await new Promise(resolve => {
      this.#asked.set(id, { resolve, otherwise })
      this.#port.postMessage({ ...request, id } as ToStore, 'data' in request ? [request.data.buffer] : [])
      this.#listen()
    })
  }

  #take (message: FromStore): void {
    if (message.type === 'ahead') {
      this.#ahead.get(message.digest)?.come(message.data)
      this.#coming.delete(message.digest)
    } else {
      this.#asked.get(message.id)?.resolve(message.result)
      this.#asked.delete(message.id)
    }
    this.#listen()
  }

  /** From now on the store has so long for its next word, if it owes one. */
  #listen (): void {
    clearTimeout(this.#silence)
    if (this.#asked.size + this.#coming.size === 0 || this.#broken !== '') return
    this.#silence = setTimeout(() => { this.#break(`its storage said nothing for ${SILENCE / 1000} s`) }, SILENCE)
  }

  #break (reason: string): void {
    console.warn('store:', describe(reason))
    clearTimeout(this.#silence)
    this.#broken = reason
    for (const { come } of this.#ahead.values()) come(null)
    for (const { resolve, otherwise } of this.#asked.values()) resolve(otherwise())
    this.#asked.clear()
  }
}

function deferred (): { come: (data: Bytes | null) => void, data: Promise<Bytes | null> } {
  let come: (data: Bytes | null) => void = () => {}
  const data = new Promise<Bytes | null>(resolve => { come = resolve })
  return { come, data }
}
