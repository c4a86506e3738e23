// What this browser keeps of models, for people to see and to delete; and asking it not to drop that by itself.
// Rule of the file: nothing is written; what a serving node has in memory it goes on serving, whatever is deleted here.

import { type Abortable, abortable } from './abort.ts'
import { emptyFolder, findFolder, type Owner, readRows } from '../bridge/kept.ts'

const AT_ONCE = 8 // files being deleted: each is a way to the browser's own process

/** One block of one model (null: its embedding and head); an empty model: nobody knows any more. `lastUsed` is unix ms. */
export interface CacheEntry { model: string, block: number | null, bytes: number, lastUsed: number }

/** Everything that is kept, what was used last first. */
export async function cacheEntries ({ signal }: Abortable = {}): Promise<CacheEntry[]> {
  const folder = await abortable(findFolder(), signal)
  const entries = new Map<string, CacheEntry>()
  for (const { model, block, bytes, used } of folder === null ? [] : (await abortable(readRows(folder), signal)).values()) {
    const key = JSON.stringify([model, block])
    const entry = entries.get(key) ?? { model, block, bytes: 0, lastUsed: 0 }
    entries.set(key, { ...entry, bytes: entry.bytes + bytes, lastUsed: Math.max(entry.lastUsed, used) })
  }
  return [...entries.values()].sort((a, b) => b.lastUsed - a.lastUsed)
}

/** Delete what is kept: of one model, of one block of it, or all. Resolves with the bytes that were freed; aborted, it leaves what is left. */
export async function clearCache (of: Partial<Owner> = {}, { signal }: Abortable = {}): Promise<number> {
  const folder = await abortable(findFolder(), signal)
  if (folder === null) return 0
  const rows = [...await abortable(readRows(folder), signal)]
  const meant = rows.filter(([, { model, block }]) => (of.model === undefined || of.model === model) && (of.block === undefined || of.block === block))
  if (meant.length === rows.length && await abortable(emptyFolder(), signal)) return meant.reduce((freed, [, { bytes }]) => freed + bytes, 0)
  let freed = 0
  const queue = meant.values()
  await Promise.all(Array.from({ length: AT_ONCE }, async () => {
    for (const [name, { bytes }] of queue) {
      signal?.throwIfAborted()
      await folder.removeEntry(name).then(() => { freed += bytes }, () => {}) // one that is being written stays
    }
  }))
  return freed
}

/** Ask the browser to keep what is stored here even when its disk fills up; whether it does. Some ask the person. */
export async function askToKeep ({ signal }: Abortable = {}): Promise<boolean> {
  return await abortable(navigator.storage.persisted(), signal) || await abortable(navigator.storage.persist(), signal)
}

/** Delete the peer's key that this browser keeps: the next start makes another. It waits while another tab uses the key. */
export async function forgetIdentity ({ signal }: Abortable = {}): Promise<void> {
  signal?.throwIfAborted()
  const deleted = new Promise<void>((resolve, reject) => {
    const deleting = indexedDB.deleteDatabase('kwaainet') // of bridge/identity.ts
    deleting.onsuccess = () => { resolve() }
    deleting.onerror = () => { reject(deleting.error ?? new Error('IndexedDB failed without a reason')) }
  })
  await abortable(deleted, signal)
}
