// A worker of the relay, seen from the page, whatever origin the page is of.
// Rule of the file: a browser takes workers of the page's own origin only, so where the relay is another one, a worker
// made of one line imports it: the page's Content-Security-Policy then allows `worker-src blob:`.

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

function makeWorker (address: string): Worker {
  if (new URL(address).origin === globalThis.location?.origin) return new Worker(address, { type: 'module' })
  const bootstrap = URL.createObjectURL(new Blob([`import ${JSON.stringify(address)}`], { type: 'text/javascript' }))
  try {
    return new Worker(bootstrap, { type: 'module' })
  } finally {
    setTimeout(() => { URL.revokeObjectURL(bootstrap) }, BOOTSTRAP_TIME)
  }
}

const BOOTSTRAP_TIME = 10_000 // ms a browser may take to read the one line
