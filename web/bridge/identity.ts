// The tab's Ed25519 seed: made once, kept in IndexedDB, used by one tab of the browser at a time.
// Rule of the file: nothing is stored before `takeIdentity`, which only a click leads to.

import { fault } from './faults.ts'
import type { Bytes } from './protobuf.ts'

const DATABASE = 'kwaainet'
const STORE = 'identity'
const KEY = 'ed25519'
const LOCK = 'kwaainet-identity'
const SEED_SIZE = 32
const SPARE_BITS = 1 // more that a new one is given: the swarm may double before it has to be replaced
const GRIND_TIME = 2000 // ms; then the best so far is taken
const LOCK_PATIENCE = 3000 // ms: a reloaded page's predecessor lets go of the lock only when it is gone

/** The seed, while this worker lives nobody else's. Throws CapacityError if another tab uses it. */
export async function takeIdentity (near: Nearness, bits: number): Promise<Bytes> {
  await takeLock()
  const database = await openDatabase()
  try {
    const kept = await request<unknown>(database.transaction(STORE).objectStore(STORE).get(KEY))
    if (kept instanceof Uint8Array && kept.length === SEED_SIZE && (bits === 0 || await near(kept.slice()) >= bits)) return kept.slice()
    const seed = await newSeed(near, bits)
    await request(database.transaction(STORE, 'readwrite', { durability: 'strict' }).objectStore(STORE).put(seed, KEY))
    return seed
  } finally {
    database.close()
  }
}

/** With how many of its bits the place of a seed's peer begins as it should. */
export type Nearness = (seed: Bytes) => Promise<number>

/** A seed that is nobody's yet: the first that is near enough, else the nearest that is found in time. */
export async function newSeed (near: Nearness, bits: number, now = (): number => performance.now()): Promise<Bytes> {
  const deadline = now() + GRIND_TIME
  let best = crypto.getRandomValues(new Uint8Array(SEED_SIZE))
  for (let shared = bits === 0 ? 0 : await near(best); bits > 0 && shared < bits + SPARE_BITS && now() < deadline;) {
    const seed = crypto.getRandomValues(new Uint8Array(SEED_SIZE))
    const found = await near(seed)
    if (found > shared) [best, shared] = [seed, found]
  }
  return best
}

/** Hold the lock until this worker ends. */
async function takeLock (): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    const options = { signal: AbortSignal.timeout(LOCK_PATIENCE) }
    navigator.locks.request(LOCK, options, async () => {
      resolve()
      await new Promise(() => {})
    }).catch(() => {
      reject(fault('CapacityError', 'another tab of this browser contributes already; use that one, or stop it first'))
    })
  })
}

async function openDatabase (): Promise<IDBDatabase> {
  const opening = indexedDB.open(DATABASE, 1)
  opening.onupgradeneeded = () => { opening.result.createObjectStore(STORE) }
  return await request(opening)
}

async function request<T> (pending: IDBRequest<T>): Promise<T> {
  return await new Promise((resolve, reject) => {
    pending.onsuccess = () => { resolve(pending.result) }
    pending.onerror = () => { reject(pending.error ?? new Error('IndexedDB failed without a reason')) }
  })
}
