// Data channels that stay on the page because its browser cannot transfer them (Firefox today): their
// messages go over the worker's port instead.
// Rule of the file: the page holds nothing back; the worker counts what it sent until told that it is gone.

import type { RtcReply } from './rtc.ts'

const LOW_WATER = 64 * 1024 // bytes a channel may still hold when the worker is told that all of them are gone

type Post = (reply: RtcReply, transfer: Transferable[]) => void
interface Kept { channel: RTCDataChannel, pc: number, owed: number }

export class Forwarder {
  readonly #post: Post
  readonly #channels = new Map<number, Kept>()

  constructor (post: Post) {
    this.#post = post
  }

  /** Forward what comes on a channel of the connection `pc`, which the worker knows by `number`. */
  keep (pc: number, number: number, channel: RTCDataChannel): void {
    const kept = { channel, pc, owed: 0 }
    this.#channels.set(number, kept)
    channel.binaryType = 'arraybuffer'
    channel.bufferedAmountLowThreshold = LOW_WATER
    channel.onmessage = ({ data }: MessageEvent<ArrayBuffer | string>) => {
      if (typeof data !== 'string') this.#post({ op: 'message', channel: number, data }, [data])
    }
    channel.onbufferedamountlow = () => { this.#settle(number, kept) }
    for (const type of ['open', 'closing', 'close'] as const) {
      channel.addEventListener(type, () => {
        if (type === 'close') this.#channels.delete(number)
        this.#post({ op: 'changed', channel: number, type, state: channel.readyState }, [])
      })
    }
  }

  send (number: number, data: ArrayBuffer): void {
    const kept = this.#channels.get(number)
    if (kept === undefined || kept.channel.readyState !== 'open') return // its close is on the way to the worker
    kept.owed += data.byteLength
    kept.channel.send(data)
    if (kept.channel.bufferedAmount <= LOW_WATER) this.#settle(number, kept)
  }

  close (number: number): void {
    this.#channels.get(number)?.channel.close()
  }

  /** The connection was closed here: its channels are told nothing by the browser. */
  drop (pc: number): void {
    for (const [number, kept] of this.#channels) {
      if (kept.pc !== pc) continue
      this.#channels.delete(number)
      this.#post({ op: 'changed', channel: number, type: 'close', state: 'closed' }, [])
    }
  }

  #settle (number: number, kept: Kept): void {
    const bytes = kept.owed
    kept.owed = 0
    if (bytes > 0) this.#post({ op: 'sent', channel: number, bytes }, [])
  }
}
