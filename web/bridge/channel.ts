// A MessagePort with types, and the window that bounds what one worker sends the other unasked.

import { STREAM_WINDOW } from '../worker/messages.ts'

interface Message { type: string, body?: Uint8Array<ArrayBuffer> }

/** What is needed of a MessagePort. */
export interface PortLike {
  onmessage: ((event: any) => void) | null
  postMessage: (message: any, transfer: Transferable[]) => void
}

/** One end: `post` transfers a message's body, so the caller must not touch it again. */
export class Channel<Out extends Message, In extends Message> {
  #port: PortLike

  constructor (port: PortLike) {
    this.#port = port
  }

  /** Messages queue in the port until this is called. */
  listen (receive: (message: In) => void): void {
    this.#port.onmessage = event => { receive(event.data as In) }
  }

  post (message: Out): void {
    this.#port.postMessage(message, message.body === undefined ? [] : [message.body.buffer])
  }
}

/** The sender's side of a window: `take` waits while too much is unacknowledged. */
export class Window {
  #open = STREAM_WINDOW
  #closed = false
  #wake: (() => void) | null = null

  /** Wait until anything may be sent, then count `size` bytes; false if the window was closed. */
  async take (size: number): Promise<boolean> {
    while (this.#open <= 0 && !this.#closed) await new Promise<void>(resolve => { this.#wake = resolve })
    this.#open -= size
    return !this.#closed
  }

  credit (size: number): void {
    this.#open += size
    this.#notify()
  }

  /** Nobody reads any more. */
  close (): void {
    this.#closed = true
    this.#notify()
  }

  #notify (): void {
    const wake = this.#wake
    this.#wake = null
    wake?.()
  }
}

/** The receiver's side: says when enough was taken to be worth a message. */
export class Receipts {
  #taken = 0

  /** Count `size` bytes as taken; the credit to give now, or 0. */
  add (size: number): number {
    this.#taken += size
    if (this.#taken < STREAM_WINDOW / 4) return 0
    const credit = this.#taken
    this.#taken = 0
    return credit
  }
}
