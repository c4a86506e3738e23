// A worker of the relay, seen from the page.

import { makeWorker } from '../bridge/foreign_worker.ts'
import { nameLife, watchLife } from '../bridge/life.ts'

/** A worker whose messages have types. */
export class TypedWorker<In, Out> {
  readonly #worker: Worker
  readonly #ended = new AbortController()

  /** `address` is absolute. `broken` is called when the worker fails, or is gone before it was ended. */
  constructor (address: string, receive: (message: Out) => void, broken: (reason: string) => void) {
    const name = nameLife()
    const own = makeWorker(address, name)
    let watched = false
    this.#worker = own
    own.onmessage = ({ data }: MessageEvent<Out>) => {
      if (!watched) watchLife(name, this.#ended.signal, () => { broken('it is gone; the browser may have run out of memory') })
      watched = true
      receive(data)
    }
    own.onerror = event => { broken(event.message || `${address} could not be loaded`) }
  }

  post (message: In, transfer: Transferable[] = []): void {
    this.#worker.postMessage(message, transfer)
  }

  end (): void {
    this.#ended.abort()
    this.#worker.terminate()
  }
}
