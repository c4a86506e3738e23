// The network worker's data channels: real ones that the page transferred, or their likeness where it could not.
// Rule of the file: what is sent in one task leaves as one message of the channel, as far as it fits.
// js-libp2p sends a message's length and the message apart; each would be a message of SCTP's.

import type { RtcRequest } from './rtc.ts'

const MAX_PACKED = 16 * 1024 // bytes put into one message: what libp2p allows, prefix included

/** An EventTarget that also calls its `on…` property. */
export class Emitter extends EventTarget {
  emit (type: string, fields: object = {}): void {
    const event = Object.assign(new Event(type), fields)
    this.dispatchEvent(event)
    const handler = (this as unknown as Record<string, unknown>)[`on${type}`]
    if (typeof handler === 'function') handler.call(this, event)
  }
}

/** What is needed of an RTCDataChannel. */
export interface ChannelLike extends EventTarget {
  readonly readyState: RTCDataChannelState
  readonly bufferedAmount: number
  binaryType: BinaryType
  bufferedAmountLowThreshold: number
  send: (data: Uint8Array<ArrayBuffer>) => void
  close: () => void
}

/** A channel that the page keeps; `number` is its name there. */
export class ForwardedChannel extends Emitter implements ChannelLike {
  binaryType: BinaryType = 'arraybuffer'
  bufferedAmountLowThreshold = 0
  readonly #number: number
  readonly #post: (request: RtcRequest, transfer: Transferable[]) => void
  #state: RTCDataChannelState
  #unsent = 0

  constructor (number: number, state: RTCDataChannelState, post: (request: RtcRequest, transfer: Transferable[]) => void) {
    super()
    this.#number = number
    this.#state = state
    this.#post = post
  }

  get readyState (): RTCDataChannelState { return this.#state }

  get bufferedAmount (): number { return this.#unsent }

  send (data: Uint8Array<ArrayBuffer>): void {
    if (this.#state !== 'open') throw new DOMException(`the data channel is ${this.#state}`, 'InvalidStateError')
    const own = data.slice().buffer
    this.#unsent += own.byteLength
    this.#post({ op: 'send', channel: this.#number, data: own }, [own])
  }

  close (): void {
    if (this.#state === 'closed') return
    this.#state = 'closing'
    this.#post({ op: 'close-channel', channel: this.#number }, [])
  }

  /** The page says what became of the channel. */
  changed (type: string, state: RTCDataChannelState): void {
    this.#state = state
    this.emit(type)
  }

  /** The page says that `bytes` have left. */
  sent (bytes: number): void {
    const before = this.#unsent
    this.#unsent -= bytes
    const threshold = this.bufferedAmountLowThreshold
    if (before > threshold && this.#unsent <= threshold) this.emit('bufferedamountlow')
  }

  arrived (data: ArrayBuffer): void {
    this.emit('message', { data })
  }
}

/** A data channel as @libp2p/webrtc uses it, which may not have arrived yet. */
export class ShimChannel extends Emitter {
  readonly label: string
  readonly protocol: string
  id: number | null
  #channel: ChannelLike | null = null
  #binaryType: BinaryType = 'arraybuffer'
  #threshold = 0
  #closed = false
  #packed: Uint8Array[] = []
  #packedSize = 0

  constructor (label: string, protocol: string, id: number | null) {
    super()
    this.label = label
    this.protocol = protocol
    this.id = id
  }

  attach (channel: ChannelLike): void {
    this.#channel = channel
    channel.binaryType = this.#binaryType
    channel.bufferedAmountLowThreshold = this.#threshold
    for (const type of ['open', 'close', 'closing', 'bufferedamountlow']) channel.addEventListener(type, () => { this.emit(type) })
    channel.addEventListener('error', event => { this.emit('error', { error: (event as RTCErrorEvent).error }) })
    channel.addEventListener('message', event => { this.emit('message', { data: (event as MessageEvent).data }) })
    if (this.#closed) channel.close()
    else if (channel.readyState === 'open') queueMicrotask(() => { this.emit('open') })
  }

  get readyState (): RTCDataChannelState {
    return this.#channel?.readyState ?? (this.#closed ? 'closing' : 'connecting')
  }

  get bufferedAmount (): number {
    return (this.#channel?.bufferedAmount ?? 0) + this.#packedSize
  }

  get binaryType (): BinaryType {
    return this.#binaryType
  }

  set binaryType (value: BinaryType) {
    this.#binaryType = value
    if (this.#channel !== null) this.#channel.binaryType = value
  }

  get bufferedAmountLowThreshold (): number {
    return this.#threshold
  }

  set bufferedAmountLowThreshold (value: number) {
    this.#threshold = value
    if (this.#channel !== null) this.#channel.bufferedAmountLowThreshold = value
  }

  /** The bytes must stay as they are until the end of the task. */
  send (data: Uint8Array): void {
    if (this.#channel === null) throw new DOMException('the data channel is not open yet', 'InvalidStateError')
    if (this.#packedSize + data.length > MAX_PACKED) this.#flush()
    if (this.#packed.length === 0) queueMicrotask(() => { this.#flush() })
    this.#packed.push(data)
    this.#packedSize += data.length
  }

  close (): void {
    this.#flush()
    this.#closed = true
    this.#channel?.close()
  }

  #flush (): void {
    if (this.#packedSize === 0) return
    const message = new Uint8Array(this.#packedSize)
    let offset = 0
    for (const part of this.#packed) {
      message.set(part, offset)
      offset += part.length
    }
    this.#packed = []
    this.#packedSize = 0
    try {
      this.#channel?.send(message)
    } catch (error) {
      this.emit('error', { error })
    }
  }
}
