// What the workers with Python in them and their store worker say to each other.
// Rule of the file: types only; bytes are transferred, and every request but `expect` has one answer.

import type { Known, Room } from '../bridge/store.ts'

export type ToStore =
  | { type: 'open', budget?: number }
  /** Blobs that there are, those that will be needed, and of these the digests to be read now, in this order. */
  | { type: 'expect', known: Known[], needed: Known[], ahead: string[] }
  | { type: 'read' | 'read-part', id: number, digest: string }
  | { type: 'write', id: number, digest: string, data: Uint8Array<ArrayBuffer> }
  | { type: 'write-part', id: number, digest: string, offset: number, data: Uint8Array<ArrayBuffer> }
  | { type: 'room', id: number }

export type FromStore =
  /** Of a blob to be read now, before anybody asks: it comes, or (null) it is not there. */
  | { type: 'ahead', digest: string, data: Uint8Array<ArrayBuffer> | null }
  | { type: 'answer', id: number, result: Uint8Array<ArrayBuffer> | string | Room | null }
