// Whole pieces out of a js-libp2p stream, with back-pressure.
// js-libp2p's own byteStream() aborts a stream that has 4 MiB unread; this pauses it far below that.

import { describe, fault } from './faults.ts'
import type { Bytes } from './protobuf.ts'

const HIGH_WATER = 256 * 1024 // unread bytes at which the stream is paused
const LOW_WATER = 64 * 1024 // ... and resumed
const EAGER_SIZE = 1024 * 1024 // a longer piece gets memory as its bytes arrive, not on its length's word

interface Chunk { byteLength: number, subarray: () => Uint8Array }

/** Counts the bytes of streams. */
export interface Meter { bytesIn: number, bytesOut: number }

/** What the Reader needs of a js-libp2p stream. */
export interface ByteSource {
  status: string
  readStatus: string
  remoteWriteStatus: string
  meter?: Meter
  pause: () => void
  resume: () => void
  addEventListener: (type: 'message' | 'remoteCloseWrite' | 'close', listener: (event: any) => void) => void
}

export class Reader {
  #source: ByteSource
  #chunks: Uint8Array[] = []
  #unread = 0
  #paused = false
  #ended = false
  #failure: Error | null = null
  #wake: (() => void) | null = null

  constructor (source: ByteSource) {
    this.#source = source
    source.addEventListener('message', (event: { data: Chunk }) => { this.#take(event.data.subarray()) })
    source.addEventListener('remoteCloseWrite', () => { this.#finish(null) })
    source.addEventListener('close', (event: { error?: Error }) => { this.#finish(event.error ?? null) })
    // What came before these listeners: js-libp2p keeps bytes for them (a microtask later), but not the end.
    if (source.status === 'reset' || source.status === 'aborted') this.#finish(new Error(`it was ${source.status} before it was read`))
    else if (source.remoteWriteStatus !== 'writable') setTimeout(() => { this.#finish(null) })
  }

  /** Wait for a byte or the end; whether it is the end. Throws StreamReset. */
  async ended (): Promise<boolean> {
    while (this.#chunks.length === 0) {
      if (this.#failure !== null) throw fault('StreamReset', `the stream broke: ${describe(this.#failure)}`)
      if (this.#ended) return true
      await new Promise<void>(resolve => { this.#wake = resolve })
    }
    return false
  }

  /** Exactly `size` bytes in a buffer of their own. Throws StreamReset if the stream ends before. */
  async exactly (size: number): Promise<Bytes> {
    const whole = size <= EAGER_SIZE ? new Uint8Array(size) : null
    const parts: Uint8Array[] = []
    let have = 0
    while (have < size) {
      if (await this.ended()) throw fault('StreamReset', `the stream ended after ${have} of ${size} bytes`)
      const part = this.#shift(size - have)
      if (whole !== null) whole.set(part, have)
      else parts.push(part)
      have += part.length
    }
    return whole ?? join(parts, size)
  }

  #shift (most: number): Uint8Array {
    const chunk = this.#chunks[0]!
    const part = chunk.subarray(0, most)
    if (part.length === chunk.length) this.#chunks.shift()
    else this.#chunks[0] = chunk.subarray(part.length)
    this.#unread -= part.length
    if (this.#paused && this.#unread <= LOW_WATER) {
      this.#paused = false
      if (this.#source.readStatus === 'paused') this.#source.resume()
    }
    return part
  }

  #take (chunk: Uint8Array): void {
    if (chunk.length === 0) return
    if (this.#source.meter !== undefined) this.#source.meter.bytesIn += chunk.length
    this.#chunks.push(chunk)
    this.#unread += chunk.length
    if (!this.#paused && this.#unread > HIGH_WATER && this.#source.readStatus === 'readable') {
      this.#paused = true
      this.#source.pause()
    }
    this.#notify()
  }

  #finish (failure: Error | null): void {
    this.#ended = true
    this.#failure ??= failure
    this.#notify()
  }

  #notify (): void {
    const wake = this.#wake
    this.#wake = null
    wake?.()
  }
}

function join (parts: Uint8Array[], size: number): Bytes {
  const out = new Uint8Array(size)
  let offset = 0
  for (const part of parts) {
    out.set(part, offset)
    offset += part.length
  }
  return out
}
