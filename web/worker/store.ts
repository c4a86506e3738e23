// The store worker: reads, hashes and writes blobs while Python starts and computes in the worker that asks.
// Rule of the file: no decisions; a request that fails is answered as if there were no such blob, with the reason where one fits.

import { describe } from '../bridge/faults.ts'
import { openFolder } from '../bridge/kept.ts'
import { Blobs } from '../bridge/store.ts'
import type { FromStore, ToStore } from './store_messages.ts'

const AT_ONCE = 8 // blobs being read ahead

let blobs: Promise<Blobs> | null = null

function tell (message: FromStore, data: Uint8Array<ArrayBuffer> | null = null): void {
  postMessage(message, { transfer: data === null ? [] : [data.buffer] })
}

/** Read what is needed before it is asked for. */
async function readAhead (digests: readonly string[]): Promise<void> {
  const store = await (blobs as Promise<Blobs>).catch(() => null) // a browser without OPFS keeps nothing
  const queue = digests.values()
  await Promise.all(Array.from({ length: AT_ONCE }, async () => {
    for (const digest of queue) {
      const data = store?.has(digest) === true ? await store.read(digest).catch(() => null) : null
      tell({ type: 'ahead', digest, data }, data)
    }
  }))
}

async function answer (message: Exclude<ToStore, { type: 'open' | 'expect' }>): Promise<void> {
  const { id } = message
  try {
    const store = await (blobs as Promise<Blobs>)
    if (message.type === 'room') tell({ type: 'answer', id, result: store.room })
    else if (message.type === 'write') tell({ type: 'answer', id, result: await store.write(message.digest, message.data) })
    else if (message.type === 'write-part') tell({ type: 'answer', id, result: await store.writePart(message.digest, message.offset, message.data) })
    else {
      const data = message.type === 'read' ? await store.read(message.digest) : await store.readPart(message.digest)
      tell({ type: 'answer', id, result: data }, data)
    }
  } catch (error) {
    console.warn('store:', describe(error))
    tell({ type: 'answer', id, result: message.type.startsWith('read') ? null : describe(error) })
  }
}

addEventListener('message', ({ data: message }: MessageEvent<ToStore>) => {
  if (message.type === 'open') {
    blobs = openFolder().then(async folder => await Blobs.open(folder, message.budget === undefined ? {} : { budget: message.budget }))
  } else if (message.type === 'expect') {
    void (blobs as Promise<Blobs>).then(store => { store.expect(message.known, message.needed) }, () => {})
    void readAhead(message.ahead)
  } else void answer(message)
})
