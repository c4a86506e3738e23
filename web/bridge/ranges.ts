// Byte ranges over HTTP, for the workers with Python in them.
// Rule of the file: one attempt each; retries, and what an error means, are decided in browser/store.py.

import { describe } from './faults.ts'
import type { Bytes } from './protobuf.ts'

const STALL = 20_000 // ms without a byte before an attempt is given up

/** Who wants to know of bytes as they come: `received` of each piece, `settled` how many an ended request brought. */
export interface Transfer { received: (bytes: number) => void, settled: (bytes: number) => void }
const UNSEEN: Transfer = { received: () => {}, settled: () => {} }

/**
 * One try at a range: the status (0 = no answer), the file's whole size if told, and the bytes. There are fewer of them
 * than asked for where the answer ended early, for the `reason`.
 */
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
    const { body, reason } = await readBody(response, length, alive)
    return { status: response.status, total, body, reason }
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

/** At most `length` bytes; of a body that breaks off, what came before. */
async function readBody (response: Response, length: number, alive: (bytes: number) => void): Promise<{ body: Bytes, reason: string }> {
  const data = new Uint8Array(length)
  let received = 0
  let reason = ''
  try {
    for await (const chunk of response.body ?? []) {
      const part = chunk.subarray(0, length - received)
      data.set(part, received)
      received += part.length
      alive(part.length)
      if (received === length) break
    }
  } catch (error) {
    reason = describe(error)
  }
  return { body: received === length ? data : data.slice(0, received), reason }
}
