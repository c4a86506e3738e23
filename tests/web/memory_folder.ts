// OPFS as far as Blobs and the cache's index use it, in memory; and Web Locks for one holder at a time.

/** `room`: bytes that can still be written; more is refused as at the quota. */
export class MemoryFolder {
  readonly kind = 'directory'
  readonly files = new Map<string, Uint8Array<ArrayBuffer>>()
  readonly #open = new Set<string>()
  room = Infinity
  gone = false // deleted as a whole, until it is made anew

  async getFileHandle (name: string, options?: { create: boolean }): Promise<unknown> {
    if (this.gone || (!this.files.has(name) && options?.create !== true)) throw new DOMException('absent', 'NotFoundError')
    if (!this.files.has(name)) this.files.set(name, new Uint8Array(0))
    return this.#handle(name)
  }

  async * entries (): AsyncGenerator<[string, unknown]> {
    for (const name of [...this.files.keys()]) yield [name, this.#handle(name)]
  }

  async removeEntry (name: string): Promise<void> {
    if (!this.files.has(name)) throw new DOMException('absent', 'NotFoundError')
    if (this.#open.has(name)) throw new DOMException('it is open', 'NoModificationAllowedError')
    this.room += this.files.get(name)!.length
    this.files.delete(name)
  }

  /** What has this folder in it, as `navigator.storage`; nothing can be deleted that is being written. */
  get storage (): object {
    const root = {
      getDirectoryHandle: async (_: string, options?: { create: boolean }) => {
        if (options?.create === true) this.gone = false
        if (this.gone) throw new DOMException('absent', 'NotFoundError')
        return this
      },
      removeEntry: async () => {
        if (this.#open.size > 0) throw new DOMException('a file is open', 'NoModificationAllowedError')
        for (const name of [...this.files.keys()]) await this.removeEntry(name)
        this.gone = true
      }
    }
    return { getDirectory: async () => root }
  }

  #handle (name: string): unknown {
    return {
      kind: 'file',
      getFile: async () => new File([this.files.get(name)!], name, { lastModified: 1 }),
      createSyncAccessHandle: async () => {
        if (this.#open.has(name)) throw new DOMException('another handle is open', 'NoModificationAllowedError')
        this.#open.add(name)
        return this.#access(name)
      }
    }
  }

  #access (name: string): unknown {
    return {
      getSize: () => this.files.get(name)!.length,
      truncate: (size: number) => { this.files.set(name, this.files.get(name)!.slice(0, size)) },
      write: (data: Uint8Array<ArrayBuffer>, { at = 0 } = {}) => {
        if (data.length > this.room && !name.endsWith('.json')) throw new DOMException('no room', 'QuotaExceededError')
        this.room -= data.length
        const before = this.files.get(name)!
        const after = new Uint8Array(Math.max(before.length, at + data.length))
        after.set(before)
        after.set(data, at)
        this.files.set(name, after)
        return data.length
      },
      flush: () => {},
      close: () => { this.#open.delete(name) }
    }
  }
}

let last: Promise<unknown> = Promise.resolve()
Object.defineProperty(navigator, 'locks', {
  value: {
    request: async (_: string, work: () => Promise<unknown>) => {
      const turn = last.then(work)
      last = turn.catch(() => {})
      return await turn
    }
  }
})
