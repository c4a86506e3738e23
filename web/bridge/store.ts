// Blobs in OPFS under their sha256, within a budget: what was not used for longest goes first.
// Rule of the file: bytes that come out are those that were meant; what is in use stays; and a browser that keeps
// nothing is a reason to say so, never an error.

import { describe } from './faults.ts'
import { accessTo, ask, fileOf, openFolder, type Owner, PART, readRows, type Row, writeRows } from './kept.ts'
import type { Bytes } from './protobuf.ts'

const SHARE = 0.5 // of the browser's quota, unless said otherwise
const SETTLE = 1000 // ms without a use until the index is written: that looks at every file
const LONGEST = 10_000 // ... or of uses one after another

/** A blob that is known before it is asked for: all of a model's, those of the span and others. */
export interface Known extends Owner { digest: string, length: number }

/** Whether what a node needs will be there at its next start; see the message of this name. */
export interface Room { kept: boolean, needed: number, room: number, message: string }

/** What browser/store.py asks of JavaScript. */
export interface BlobFiles {
  /** The bytes, or null when absent or damaged. */
  read: (digest: string) => Promise<Bytes | null>
  /** Keep bytes; "" when kept, "mismatch", or why they could not be kept (a quota, a busy file). */
  write: (digest: string, data: Bytes) => Promise<string>
  /** What is kept of a blob that is not whole, from its start on; nobody has checked it. */
  readPart: (digest: string) => Promise<Bytes | null>
  /** Keep more of one, where what is kept of it ends; at 0 it begins anew. "" or why not. */
  writePart: (digest: string, offset: number, data: Bytes) => Promise<string>
}

export interface BlobOptions {
  /** Bytes that may be kept; 0: nothing. Absent: a share of the quota. */
  budget?: number
  now?: () => number
  estimate?: () => Promise<StorageEstimate>
}

/** Files named by their hash; what does not match its name is dropped. */
export class Blobs implements BlobFiles {
  readonly #folder: FileSystemDirectoryHandle
  readonly #rows: Map<string, Row>
  readonly #budget: number
  readonly #now: () => number
  readonly #owners = new Map<string, Owner>()
  readonly #used = new Set<string>() // digests of what this worker serves, which therefore stays
  readonly #writing = new Map<string, Promise<string>>()
  #saving: ReturnType<typeof setTimeout> | undefined
  #unsaved: number | undefined // since when something is, by performance.now()
  #needed = 0
  #refusal = ''

  private constructor (folder: FileSystemDirectoryHandle, rows: Map<string, Row>, budget: number, now: () => number) {
    this.#folder = folder
    this.#rows = rows
    this.#budget = budget
    this.#now = now
  }

  static async open (folder: FileSystemDirectoryHandle, { budget, now = Date.now, estimate = async () => await navigator.storage.estimate() }: BlobOptions = {}): Promise<Blobs> {
    const [rows, { quota = 0, usage = 0 }] = await Promise.all([readRows(folder), estimate()])
    const own = sum(rows.values())
    const most = Math.max(0, quota - Math.max(0, usage - own)) // others of this origin have their share, too
    return new Blobs(folder, rows, Math.min(budget ?? Math.floor(quota * SHARE), most), now)
  }

  /** Say what blobs there are and whose; `needed` are those about to be asked for. */
  expect (known: readonly Known[], needed: readonly Known[]): void {
    for (const { digest, model, block } of known) this.#owners.set(digest, { model, block })
    for (const { digest } of needed) this.#used.add(digest)
    this.#needed = needed.reduce((bytes, { length }) => bytes + length, 0)
  }

  has (digest: string): boolean {
    return this.#rows.has(digest)
  }

  get room (): Room {
    const [needed, room] = [this.#needed, this.#budget]
    const tight = needed > room ? `the weights take ${megabytes(needed)}, and this browser gives ${megabytes(room)} for them` : ''
    const reason = this.#refusal === '' ? tight : `${this.#refusal}; the browser gives ${megabytes(room)} for the ${megabytes(needed)} of weights`
    const remedy = 'what is not kept is fetched again at each start. Free some disk space, let this site store more, or serve fewer blocks'
    return { kept: reason === '', needed, room, message: reason === '' ? '' : `${reason}: ${remedy}.` }
  }

  async read (digest: string): Promise<Bytes | null> {
    const data = await this.#content(digest)
    if (data === null) return null
    if (await sha256(data) === digest) {
      this.#use(digest, data.length)
      return data
    }
    await this.#remove(digest)
    return null
  }

  async write (digest: string, data: Bytes): Promise<string> {
    if (await sha256(data) !== digest) return 'mismatch'
    let writing = this.#writing.get(digest) // two tensors with the same bytes may come at once
    if (writing === undefined) {
      writing = this.#keep(digest, digest, data.length, async () => { await this.#put(digest, 0, data) }).finally(() => { this.#writing.delete(digest) })
      this.#writing.set(digest, writing)
    }
    const problem = await writing
    if (this.#rows.has(digest + PART)) await this.#remove(digest + PART)
    return problem
  }

  async readPart (digest: string): Promise<Bytes | null> {
    return this.#rows.has(digest + PART) ? await this.#content(digest + PART) : null
  }

  async writePart (digest: string, offset: number, data: Bytes): Promise<string> {
    const name = digest + PART
    if (offset !== (this.#rows.get(name)?.bytes ?? 0) && offset !== 0) return `there are not ${offset} bytes before it`
    if (data.length === 0) {
      await this.#remove(name)
      return ''
    }
    return await this.#keep(name, digest, offset + data.length, async () => { await this.#put(name, offset, data) })
  }

  /** Make room, have `work` done, and once more with more room if the browser refuses. */
  async #keep (name: string, digest: string, size: number, work: () => Promise<void>): Promise<string> {
    if (this.#budget === 0) return ''
    this.#used.add(digest)
    const more = size - (this.#rows.get(name)?.bytes ?? 0)
    try {
      if (!await this.#makeRoom(more)) return this.#refuse(`there is no room for ${megabytes(size)} more`)
      try {
        await work()
      } catch (error) {
        if (isGone(error)) await openFolder() // somebody has deleted it; our handle is of whatever has its name
        else if (!isQuota(error) || !await this.#evict(more)) throw error
        await work()
      }
      this.#use(name, size)
      return ''
    } catch (error) {
      await this.#remove(name)
      return this.#refuse(isQuota(error) ? `the browser refused to keep them (${describe(error)})` : describe(error))
    }
  }

  #refuse (reason: string): string {
    this.#refusal = reason
    return reason
  }

  async #put (name: string, offset: number, data: Bytes): Promise<void> {
    const access = await accessTo(await this.#folder.getFileHandle(name, { create: true }))
    try {
      access.truncate(offset)
      if (access.write(data, { at: offset }) !== data.length) throw new DOMException('the file ends early', 'QuotaExceededError')
    } finally {
      access.close()
    }
  }

  async #content (name: string): Promise<Bytes | null> {
    try {
      const file = await fileOf(await this.#folder.getFileHandle(name))
      return new Uint8Array(await ask(file, async () => await file.arrayBuffer()))
    } catch (error) {
      this.#rows.delete(name) // somebody has cleared the storage, or the browser has
      if (error instanceof DOMException && (error.name === 'NotFoundError' || error.name === 'NotReadableError')) return null
      throw error
    }
  }

  async #makeRoom (size: number): Promise<boolean> {
    const excess = sum(this.#rows.values()) + size - this.#budget
    return excess <= 0 || await this.#evict(excess)
  }

  /** Drop whole blocks, the one that was used longest ago first, until `size` bytes are free. */
  async #evict (size: number): Promise<boolean> {
    const groups = new Map<string, { used: number, names: string[] }>()
    for (const [name, row] of this.#rows) {
      if (this.#used.has(name.slice(0, 64))) continue
      const key = row.model === '' ? name : `${row.model}/${row.block}`
      const group = groups.get(key) ?? { used: 0, names: [] }
      groups.set(key, { used: Math.max(group.used, row.used), names: [...group.names, name] })
    }
    let freed = 0
    for (const { names } of [...groups.values()].sort((a, b) => a.used - b.used)) {
      if (freed >= size) break
      for (const name of names) {
        freed += this.#rows.get(name)?.bytes ?? 0
        await this.#remove(name)
      }
    }
    return freed >= size
  }

  async #remove (name: string): Promise<void> {
    this.#rows.delete(name)
    await this.#folder.removeEntry(name).catch(() => {})
  }

  #use (name: string, bytes: number): void {
    const digest = name.slice(0, 64)
    const owner = this.#owners.get(digest) ?? this.#rows.get(name) ?? { model: '', block: null }
    this.#used.add(digest)
    this.#rows.set(name, { model: owner.model, block: owner.block, bytes, used: this.#now() })
    const now = performance.now()
    this.#unsaved ??= now
    clearTimeout(this.#saving)
    this.#saving = setTimeout(() => { void this.save() }, Math.min(SETTLE, this.#unsaved + LONGEST - now))
  }

  /** Write the index now. */
  async save (): Promise<void> {
    clearTimeout(this.#saving)
    this.#unsaved = undefined
    await writeRows(this.#folder, this.#rows).catch(() => {}) // it is no more than an index
  }
}

const sum = (rows: Iterable<Row>): number => [...rows].reduce((bytes, row) => bytes + row.bytes, 0)

const isGone = (error: unknown): boolean => error instanceof DOMException && error.name === 'NotFoundError'

const isQuota = (error: unknown): boolean => error instanceof DOMException && error.name === 'QuotaExceededError'

const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`

async function sha256 (data: Bytes): Promise<string> {
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', data))
  return Array.from(digest, byte => byte.toString(16).padStart(2, '0')).join('')
}
