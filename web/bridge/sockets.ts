// The WebSockets of this worker: what is sent within one turn goes as one message, and it can be told when all they
// were given is on its way, for what a socket still holds when its page goes is lost with it.
// js-libp2p sends a message for each piece, two for the least; each is a way to another process and a frame to the relay.
// Rule of the file: bytes keep their order and leave with the turn they were given in.

import { concat } from './protobuf.ts'

const POLL = 1 // ms; the browser makes more of it when asked again and again
const MOST_GATHERED = 256 * 1024 // bytes of one message; a relay may take 1 MiB at once

const open = new Set<WebSocket>()

/** Every WebSocket made from here on is watched and gathers what it sends. What is given to it is not to be changed before the turn ends. */
export function gatherSockets (): void {
  globalThis.WebSocket = class extends WebSocket {
    #pieces: Array<Uint8Array<ArrayBuffer>> = []
    #size = 0

    constructor (url: string | URL, protocols?: string | string[]) {
      super(url, protocols)
      open.add(this)
      this.addEventListener('close', () => { open.delete(this) })
    }

    override get bufferedAmount (): number {
      return super.bufferedAmount + this.#size
    }

    override send (data: string | ArrayBufferLike | Blob | ArrayBufferView): void {
      if (!(data instanceof Uint8Array && data.buffer instanceof ArrayBuffer) || this.readyState !== WebSocket.OPEN) {
        this.#flush()
        super.send(data as Uint8Array<ArrayBuffer>)
        return
      }
      if (this.#size + data.length > MOST_GATHERED) this.#flush()
      if (this.#pieces.push(data as Uint8Array<ArrayBuffer>) === 1) queueMicrotask(() => { this.#flush() })
      this.#size += data.length
    }

    override close (code?: number, reason?: string): void {
      this.#flush()
      super.close(code, reason)
    }

    #flush (): void {
      const pieces = this.#pieces
      if (pieces.length === 0) return
      const message = pieces.length === 1 ? pieces[0]! : concat(...pieces)
      this.#pieces = []
      this.#size = 0
      super.send(message)
    }
  }
}

/** Resolves once no socket holds anything back. */
export async function flushed (): Promise<void> {
  while ([...open].some(socket => socket.bufferedAmount > 0)) await new Promise(resolve => setTimeout(resolve, POLL))
}
