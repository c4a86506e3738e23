// Hivemind's RPCs between the network and the node worker: unary calls here, streams in streams.ts.
// Rule of the file: it knows messages and framing, and of the network only `NetworkHost`.

import type { Call, Farewell, Fault, NodeToNetwork, Open, Result } from '../worker/messages.ts'
import { asFault, describe, fault } from './faults.ts'
import { encodeError, encodeRequest, encodeResponse, readRequest, readResponse, type UnaryResponse } from './framing.ts'
import { Reader } from './reader.ts'
import { type NodeChannel, type RpcStream, StreamPump, write } from './streams.ts'

const CALL_ID_SIZE = 16
const MAX_SERVED = 512 // calls and streams of all peers at once: each may hold a window in either worker
const HEARD_PATIENCE = 500 // ms for callers to take notice of a leave
const BUSY = `this tab serves ${MAX_SERVED} calls already; try another or later`

export type StreamHandler = (stream: RpcStream, peer: string) => Promise<void>

/** The libp2p host, as far as RPCs go. Peers are base58 ids. */
export interface NetworkHost {
  serve: (protocol: string, kind: 'unary' | 'stream', handler: StreamHandler) => Promise<void>
  /** A stream for one unary call, at once. */
  dial: (peer: string, protocol: string, signal: AbortSignal) => Promise<RpcStream>
  /** A stream for a stream RPC, which lives long: this may wait a little for a better connection. */
  open: (peer: string, protocol: string, signal: AbortSignal) => Promise<RpcStream>
  /** A peer id's bytes. */
  decode: (peer: string) => Uint8Array
  /** Take a slot on a relay; resolves when it is taken. */
  listen: () => Promise<void>
  close: () => Promise<void>
}

export class Switchboard {
  readonly #channel: NodeChannel
  readonly #host: NetworkHost
  readonly #answers = new Map<number, (answer: Result | Fault | null) => void>()
  readonly #pumps = new Map<number, StreamPump>()
  readonly #outgoing = new Map<number, AbortController>()
  readonly #serving: Array<Promise<void>> = []
  #lastId = 0
  #farewell: Farewell | null = null
  #gone = false
  #emptied: () => void = () => {} // nothing is served or called any more

  constructor (channel: NodeChannel, host: NetworkHost) {
    this.#channel = channel
    this.#host = host
    channel.listen(message => { this.#receive(message) })
  }

  /**
   * The page goes away: error frames first, then the stored call. Nothing here waits. A browser may let workers live on
   * a while: what the node calls from now on is refused, lest it announce itself again, and the connections end.
   */
  bye (reason: string): void {
    this.#gone = true
    this.#endServing(reason)
    const farewell = this.#farewell
    this.#farewell = null
    if (farewell === null) return
    this.#exchange(farewell, AbortSignal.timeout(5000)).catch(() => {}).finally(() => { void this.#host.close() })
  }

  #endServing (reason: string): void {
    for (const pump of this.#pumps.values()) pump.leave(reason)
    for (const answer of this.#answers.values()) answer({ type: 'fault', id: 0, error: 'CapacityError', message: reason })
  }

  #receive (message: NodeToNetwork): void {
    switch (message.type) {
      case 'serve':
        this.#serving.push(this.#host.serve(message.protocol, message.kind, async (stream, peer) => {
          if (message.kind === 'unary') await this.#answer(message.protocol, stream, peer)
          else await this.#serve(message.protocol, stream, peer)
        }))
        break
      case 'listen': this.#reply(message.id, async () => { await Promise.all(this.#serving); await this.#host.listen() }); break
      case 'leave': this.#reply(message.id, async () => { await this.#leave(message.reason) }); break
      case 'farewell': this.#farewell = message; break
      case 'call':
      case 'open':
        if (this.#gone) this.#fault(message.id, fault('Unreachable', 'the page of this tab is being closed'))
        else void (message.type === 'call' ? this.#call(message) : this.#open(message))
        break
      default: this.#route(message)
    }
  }

  #route (message: Exclude<NodeToNetwork, { protocol: string }> & { id: number }): void {
    const answer = this.#answers.get(message.id)
    if (answer !== undefined && (message.type === 'result' || message.type === 'fault')) answer(message)
    else if (message.type === 'cancel' && this.#outgoing.has(message.id)) this.#outgoing.get(message.id)?.abort(new Error(message.reason))
    else this.#pumps.get(message.id)?.deliver(message)
  }

  #reply (id: number, action: () => Promise<void>): void {
    action().then(
      () => { this.#channel.post({ type: 'result', id }) },
      (error: unknown) => { this.#fault(id, error) }
    )
  }

  #fault (id: number, error: unknown): void {
    const { fault: name, message } = asFault(error, 'StreamReset')
    this.#channel.post({ type: 'fault', id, error: name, message })
  }

  /** Serve one unary call. */
  async #answer (protocol: string, stream: RpcStream, peer: string): Promise<void> {
    const id = this.#lastId += 2
    const reader = new Reader(stream)
    try {
      const { callId, body } = await readRequest(reader)
      if (this.#busy()) {
        await write(stream, encodeResponse(callId, { error: BUSY }))
        await stream.close()
        return
      }
      const answer = await new Promise<Result | Fault | null>(resolve => {
        this.#answers.set(id, resolve)
        this.#channel.post({ type: 'call', id, peer, protocol, body })
        reader.ended().then(() => { resolve(null) }, () => { resolve(null) })
      })
      if (answer === null) {
        this.#channel.post({ type: 'cancel', id, reason: 'the caller closed the stream' })
        stream.abort(new Error('the caller closed the stream before its answer'))
        return
      }
      await write(stream, respond(callId, answer))
      await stream.close()
    } catch (error) {
      stream.abort(new Error(describe(error)))
    } finally {
      this.#forget(this.#answers, id)
    }
  }

  /** Serve one stream RPC. */
  async #serve (protocol: string, stream: RpcStream, peer: string): Promise<void> {
    const id = this.#lastId += 2
    if (this.#busy()) {
      await write(stream, encodeError(BUSY))
      await stream.close()
      return
    }
    this.#channel.post({ type: 'open', id, peer, protocol })
    await this.#pump(id, stream, true)
  }

  #busy (): boolean {
    return this.#count() >= MAX_SERVED
  }

  #count (): number {
    return this.#answers.size + this.#pumps.size
  }

  async #pump (id: number, stream: RpcStream, served: boolean): Promise<void> {
    const pump = new StreamPump(id, stream, this.#channel, served)
    this.#pumps.set(id, pump)
    await pump.run()
    this.#forget(this.#pumps, id)
  }

  async #call (message: Call): Promise<void> {
    const abort = new AbortController()
    this.#outgoing.set(message.id, abort)
    try {
      const response = await this.#exchange(message, abort.signal)
      if ('error' in response) throw fault('RpcError', response.error)
      this.#channel.post({ type: 'result', id: message.id, body: response.body })
    } catch (error) {
      if (!abort.signal.aborted) this.#fault(message.id, error)
    } finally {
      this.#outgoing.delete(message.id)
    }
  }

  /** One unary call. The stream is closed only after the answer: p2pd takes an earlier end for a cancel. */
  async #exchange (call: Pick<Call, 'peer' | 'protocol' | 'body'>, signal: AbortSignal): Promise<UnaryResponse> {
    const callId = crypto.getRandomValues(new Uint8Array(CALL_ID_SIZE))
    const request = encodeRequest(callId, this.#host.decode(call.peer), call.protocol, call.body)
    const stream = await this.#host.dial(call.peer, call.protocol, signal)
    const cancel = (): void => { stream.abort(new Error('the call was cancelled')) }
    signal.addEventListener('abort', cancel)
    try {
      const reader = new Reader(stream)
      await write(stream, request)
      const response = await readResponse(reader, callId)
      stream.close().catch(() => {})
      return response
    } catch (error) {
      cancel()
      throw error
    } finally {
      signal.removeEventListener('abort', cancel)
    }
  }

  async #open (message: Open): Promise<void> {
    const abort = new AbortController()
    this.#outgoing.set(message.id, abort)
    let stream: RpcStream
    try {
      stream = await this.#host.open(message.peer, message.protocol, abort.signal)
    } catch (error) {
      if (!abort.signal.aborted) this.#fault(message.id, error)
      return
    } finally {
      this.#outgoing.delete(message.id)
    }
    if (abort.signal.aborted) {
      stream.abort(new Error('the caller gave up'))
      return
    }
    this.#channel.post({ type: 'result', id: message.id })
    await this.#pump(message.id, stream, false)
  }

  /** An orderly end: as `bye`, but the connections go only when every caller has heard, which ends its stream then. */
  async #leave (reason: string): Promise<void> {
    this.#farewell = null // the node took its announcement down itself
    this.#endServing(reason)
    if (this.#count() > 0) { // closing at once would beat the frames
      await new Promise<void>(resolve => {
        this.#emptied = resolve
        setTimeout(resolve, HEARD_PATIENCE)
      })
    }
    await this.#host.close()
  }

  /** One that was served, or called, is over. */
  #forget (of: Map<number, unknown>, id: number): void {
    of.delete(id)
    if (this.#count() === 0) this.#emptied()
  }
}

function respond (callId: Uint8Array, answer: Result | Fault): Uint8Array {
  if (answer.type === 'fault') return encodeResponse(callId, { error: answer.message })
  try {
    return encodeResponse(callId, { body: answer.body ?? new Uint8Array(0) })
  } catch (error) {
    return encodeResponse(callId, { error: describe(error) })
  }
}
