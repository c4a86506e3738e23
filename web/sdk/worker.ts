// A worker of this project, seen from the page.

declare const NETWORK_WORKER: string // paths with their version, set by build/web.mjs
declare const NODE_WORKER: string
declare const CLIENT_WORKER: string

export const PATHS = { network: NETWORK_WORKER, node: NODE_WORKER, client: CLIENT_WORKER }

/** A worker whose messages have types. */
export class TypedWorker<In, Out> {
  readonly #worker: Worker

  constructor (path: string, origin: string, receive: (message: Out) => void, broken: (reason: string) => void) {
    this.#worker = new Worker(new URL(path, origin), { type: 'module' })
    this.#worker.onmessage = ({ data }: MessageEvent<Out>) => { receive(data) }
    this.#worker.onerror = event => { broken(event.message || `${path} could not be loaded`) }
  }

  post (message: In, transfer: Transferable[] = []): void {
    this.#worker.postMessage(message, transfer)
  }

  end (): void {
    this.#worker.terminate()
  }
}
