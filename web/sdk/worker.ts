// A worker of the relay, seen from the page.

import { makeWorker } from '../bridge/foreign_worker.ts'

/** A worker whose messages have types. */
export class TypedWorker<In, Out> {
  readonly #worker: Worker

  /** `address` is absolute. */
  constructor (address: string, receive: (message: Out) => void, broken: (reason: string) => void) {
    const own = makeWorker(address)
    this.#worker = own
    own.onmessage = ({ data }: MessageEvent<Out>) => { receive(data) }
    own.onerror = event => { broken(event.message || `${address} could not be loaded`) }
  }

  post (message: In, transfer: Transferable[] = []): void {
    this.#worker.postMessage(message, transfer)
  }

  end (): void {
    this.#worker.terminate()
  }
}
