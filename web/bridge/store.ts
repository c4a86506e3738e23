// Bytes for the node worker: blobs in OPFS under their sha256, and byte ranges over HTTP.
// Rule of the file: one attempt each; retries, and what an error means, are decided in browser/store.py.

import { describe } from './faults.ts'
import type { Bytes } from './protobuf.ts'

const FOLDER = 'blobs'
const STALL = 20_000 // ms without a byte before an attempt is given up

declare global {
  /** Of the worker library, which cannot be loaded beside the page's. */
  interface FileSystemFileHandle { createSyncAccessHandle: () => Promise<SyncAccessHandle> }
}
interface SyncAccessHandle { truncate: (size: number) => void, write: (data: Uint8Array) => number, flush: () => void, close: () => void }

/** The folder of blobs, made at first use. */
export async function openBlobs (): Promise<Blobs> {
  const root = await navigator.storage.getDirectory()
  return new Blobs(await root.getDirectoryHandle(FOLDER, { create: true }))
}

/** Files named by their hash; what does not match its name is dropped. */
export class Blobs {
  readonly #folder: FileSystemDirectoryHandle
  readonly #writing = new Map<string, Promise<string>>()

  constructor (folder: FileSystemDirectoryHandle) {
    this.#folder = folder
  }

  /** The bytes, or null when absent or damaged. */
  async read (digest: string): Promise<Bytes | null> {
    let file: File
    try {
      file = await (await this.#folder.getFileHandle(digest)).getFile()
    } catch (error) {
      if (error instanceof DOMException && error.name === 'NotFoundError') return null
      throw error
    }
    const data = new Uint8Array(await file.arrayBuffer())
    if (await sha256(data) === digest) return data
    await this.#folder.removeEntry(digest)
    return null
  }

  /** Keep bytes; "" when kept, "mismatch", or why they could not be kept (a quota, a busy file). */
  async write (digest: string, data: Bytes): Promise<string> {
    if (await sha256(data) !== digest) return 'mismatch'
    let writing = this.#writing.get(digest) // two tensors with the same bytes may come at once
    if (writing === undefined) {
      writing = this.#replace(digest, data).finally(() => { this.#writing.delete(digest) })
      this.#writing.set(digest, writing)
    }
    return await writing
  }

  async #replace (digest: string, data: Bytes): Promise<string> {
    try {
      const file = await this.#folder.getFileHandle(digest, { create: true })
      const access = await file.createSyncAccessHandle()
      try {
        access.truncate(0)
        access.write(data)
        access.flush()
      } finally {
        access.close()
      }
      return ''
    } catch (error) {
      await this.#folder.removeEntry(digest).catch(() => {})
      return describe(error)
    }
  }
}

async function sha256 (data: Bytes): Promise<string> {
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', data))
  return Array.from(digest, byte => byte.toString(16).padStart(2, '0')).join('')
}

/** Who wants to know of bytes as they come: `received` of each piece, `settled` how many an ended request brought. */
export interface Transfer { received: (bytes: number) => void, settled: (bytes: number) => void }
const UNSEEN: Transfer = { received: () => {}, settled: () => {} }

/** One try at a range: the status (0 = no answer), the file's whole size if told, and the bytes. */
export interface RangeAnswer { status: number, total: number, body: Bytes | null, reason: string }

/** Fetch `length` bytes at `offset`. A body is read only from a 206, or from a 200 of exactly the range asked. */
export async function fetchRange (url: string, offset: number, length: number, transfer: Transfer = UNSEEN): Promise<RangeAnswer> {
  const abort = new AbortController()
  let timer = 0
  let came = 0
  const alive = (bytes: number): void => {
    came += bytes
    transfer.received(bytes)
    clearTimeout(timer)
    timer = setTimeout(() => { abort.abort(new Error(`no byte came for ${STALL / 1000} s`)) }, STALL) as unknown as number
  }
  try {
    alive(0)
    const response = await fetch(url, { headers: { Range: `bytes=${offset}-${offset + length - 1}` }, signal: abort.signal })
    const total = sizeOf(response)
    const usable = response.status === 206 || (response.status === 200 && offset === 0 && total === length)
    if (!usable) {
      await response.body?.cancel()
      return { status: response.status, total, body: null, reason: response.statusText }
    }
    return { status: response.status, total, body: await readBody(response, length, alive), reason: '' }
  } catch (error) {
    return { status: 0, total: -1, body: null, reason: describe(error) }
  } finally {
    clearTimeout(timer)
    transfer.settled(came)
  }
}

function sizeOf (response: Response): number {
  const range = response.headers.get('Content-Range')?.match(/\/(\d+)$/)?.[1]
  const text = range ?? (response.status === 200 ? response.headers.get('Content-Length') : null)
  return text === null ? -1 : Number(text)
}

/** At most `length` bytes; a shorter body is returned short. */
async function readBody (response: Response, length: number, alive: (bytes: number) => void): Promise<Bytes> {
  const data = new Uint8Array(length)
  let received = 0
  if (response.body === null) return data.subarray(0, 0)
  for await (const chunk of response.body) {
    const part = chunk.subarray(0, length - received)
    data.set(part, received)
    received += part.length
    alive(part.length)
    if (received === length) break
  }
  return received === length ? data : data.subarray(0, received)
}
