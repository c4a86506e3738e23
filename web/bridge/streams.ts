// One stream RPC between a libp2p stream and the node worker: frames on one side, messages on the other.
// Rule of the file: the node worker is told exactly one ending, whatever happens here. A credited stream
// sends no more than the node worker at its far end has taken, for its connection would not hold it back.

import type { NetworkToNode, NodeToNetwork } from '../worker/messages.ts'
import { FRAME_HEADER_SIZE } from '../worker/messages.ts'
import { type Channel, Receipts, Window } from './channel.ts'
import { asFault, describe, FaultError } from './faults.ts'
import { encodeCredit, encodeEnd, encodeError, encodeMessage, readFrame } from './framing.ts'
import { type ByteSource, Reader } from './reader.ts'

const END_PATIENCE = 2000 // ms a callee waits for the caller's end frame before it closes

/** What is needed of a js-libp2p stream. */
export interface RpcStream extends ByteSource {
  writableNeedsDrain: boolean
  /** Both ends send credits. */
  credited?: boolean
  send: (data: Uint8Array) => boolean
  addEventListener: (type: 'message' | 'remoteCloseWrite' | 'close' | 'drain', listener: (event: any) => void) => void
  removeEventListener: (type: 'close' | 'drain', listener: (event: any) => void) => void
  close: () => Promise<void>
  abort: (error: Error) => void
}

export type NodeChannel = Channel<NetworkToNode, NodeToNetwork>

/** Send, and wait until the other end's window has room again. */
export async function write (stream: RpcStream, data: Uint8Array): Promise<void> {
  if (stream.meter !== undefined) stream.meter.bytesOut += data.length
  if (stream.send(data)) return
  while (stream.writableNeedsDrain && stream.status === 'open') await drained(stream)
}

/** The next 'drain'. js-libp2p's own onDrain() waits only once: it keeps its first promise for ever. */
async function drained (stream: RpcStream): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    const settle = (event: { type: string, error?: Error }): void => {
      stream.removeEventListener('drain', settle)
      stream.removeEventListener('close', settle)
      if (event.type === 'drain') resolve()
      else reject(event.error ?? new Error('the stream closed before all was sent'))
    }
    stream.addEventListener('drain', settle)
    stream.addEventListener('close', settle)
  })
}

export class StreamPump {
  readonly #id: number
  readonly #stream: RpcStream
  readonly #channel: NodeChannel
  readonly #served: boolean
  readonly #reader: Reader
  readonly #window = new Window()
  readonly #receipts = new Receipts()
  readonly #farWindow: Window | null
  #writes: Promise<void> = Promise.resolve()
  #over = false // an ending was said, by either side
  #left = false // the last word was sent: nothing may follow it, not even a reset, which would take it back
  #callerEnded: () => void = () => {}
  readonly #callerEnd = new Promise<void>(resolve => { this.#callerEnded = resolve })

  /** `served`: a peer called us; else we call. */
  constructor (id: number, stream: RpcStream, channel: NodeChannel, served: boolean) {
    this.#id = id
    this.#stream = stream
    this.#channel = channel
    this.#served = served
    this.#reader = new Reader(stream)
    this.#farWindow = stream.credited === true ? new Window() : null
  }

  /** Read until the stream is over; never throws. */
  async run (): Promise<void> {
    try {
      while (!this.#over || this.#served) {
        const frame = await readFrame(this.#reader, this.#farWindow !== null)
        if (frame === null) {
          if (this.#served) this.#finish({ type: 'cancel', id: this.#id, reason: 'the caller closed the stream' })
          else this.#finish({ type: 'close', id: this.#id })
          break
        }
        if ('body' in frame) await this.#forward(frame.body)
        else if ('credit' in frame) this.#farWindow?.credit(frame.credit)
        else this.#errorFrame(frame.error)
      }
    } catch (error) {
      this.#fail(error)
    } finally {
      this.#callerEnded()
      this.#window.close()
      this.#farWindow?.close()
      if (!this.#served) await this.#stream.close().catch(() => {})
    }
  }

  /** A message of the node worker about this stream. */
  deliver (message: NodeToNetwork): void {
    if (this.#left) return
    if (message.type === 'credit') this.#credit(message.bytes)
    else if (message.type === 'data') this.#later(async () => { await this.#send(message.body) })
    else if (message.type === 'end') this.#later(async () => { await write(this.#stream, encodeEnd()) })
    else if (message.type === 'cancel') this.#drop(message.reason)
    else if (message.type === 'close') this.#later(async () => { await this.#close() })
    else if (message.type === 'fault') this.#later(async () => { await this.#refuse(message.message) })
  }

  /** The tab goes away: say so at once, ahead of everything that waits. */
  leave (reason: string): void {
    if (this.#over) return
    if (!this.#served) {
      this.#drop(reason)
      return
    }
    this.#over = this.#left = true
    try {
      this.#stream.send(encodeError(reason))
      this.#stream.close().catch(() => {})
    } catch { /* the stream was gone already */ }
  }

  async #forward (body: Uint8Array<ArrayBuffer>): Promise<void> {
    if (!this.#over && await this.#window.take(FRAME_HEADER_SIZE + body.length) && !this.#over) {
      this.#channel.post({ type: 'data', id: this.#id, body })
    }
  }

  #errorFrame (message: string): void {
    if (this.#served) {
      this.#callerEnded()
      if (!this.#over) this.#channel.post({ type: 'end', id: this.#id })
    } else {
      this.#finish({ type: 'fault', id: this.#id, error: 'RpcError', message })
    }
  }

  /** The node worker has taken `bytes`. The peer hears it at once: behind a message that waits for the peer's credit, both would wait. */
  #credit (bytes: number): void {
    this.#window.credit(bytes)
    if (this.#farWindow === null || this.#over) return
    try {
      this.#stream.send(encodeCredit(bytes))
    } catch { /* the stream is gone, as its reader will tell */ }
  }

  async #send (body: Uint8Array): Promise<void> {
    const size = FRAME_HEADER_SIZE + body.length
    if (this.#farWindow !== null && !await this.#farWindow.take(size)) return
    await write(this.#stream, encodeMessage(body))
    const credit = this.#receipts.add(size)
    if (credit > 0 && !this.#over) this.#channel.post({ type: 'credit', id: this.#id, bytes: credit })
  }

  async #close (): Promise<void> {
    this.#over = true
    await Promise.race([this.#callerEnd, new Promise(resolve => setTimeout(resolve, END_PATIENCE))])
    await this.#stream.close()
  }

  async #refuse (message: string): Promise<void> {
    this.#over = true
    await write(this.#stream, encodeError(message))
    await this.#stream.close()
  }

  #drop (reason: string): void {
    this.#over = true
    this.#window.close()
    this.#stream.abort(new Error(reason))
  }

  /** Reading or writing went wrong: tell the node worker, and the peer if it broke the protocol. */
  #fail (error: unknown): void {
    if (this.#left) return
    const { fault, message } = asFault(error, 'StreamReset')
    if (this.#served) this.#finish({ type: 'cancel', id: this.#id, reason: message })
    else this.#finish({ type: 'fault', id: this.#id, error: fault, message })
    if (this.#served && error instanceof FaultError && fault !== 'StreamReset') {
      this.#refuse(message).catch(() => {})
    } else {
      this.#stream.abort(new Error(describe(error)))
    }
  }

  #finish (message: NetworkToNode): void {
    if (this.#over) return
    this.#over = true
    this.#channel.post(message)
  }

  /** Writes keep their order; the first that fails ends the stream. */
  #later (step: () => Promise<void>): void {
    this.#writes = this.#writes.then(step).catch(error => { this.#fail(error) })
  }
}
