// The protocols that a host serves, for each of its nodes: also for one that is being connected while they are said.
// Rule of the file: it knows no network; who adds a node to the others asks in the same turn whether all is handled.

export class Served<Handler> {
  readonly #handlers = new Map<string, Handler>()

  set (protocol: string, handler: Handler): void {
    this.#handlers.set(protocol, handler)
  }

  /** A function that has a node handle whatever it does not handle yet, until that is nothing. */
  on (handle: (protocol: string, handler: Handler) => Promise<void>): () => Promise<void> {
    const done = new Map<string, Handler>()
    return async () => {
      for (;;) {
        const missing = [...this.#handlers].filter(([protocol, handler]) => done.get(protocol) !== handler)
        if (missing.length === 0) return
        await Promise.all(missing.map(async ([protocol, handler]) => {
          done.set(protocol, handler)
          await handle(protocol, handler)
        }))
      }
    }
  }
}
