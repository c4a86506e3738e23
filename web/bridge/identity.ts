// The tab's Ed25519 seed: made once, kept in IndexedDB, used by one tab of the browser at a time.
// Rule of the file: nothing is stored before `takeIdentity`, which only a click leads to.

import { fault } from './faults.ts'
import type { Bytes } from './protobuf.ts'

const DATABASE = 'kwaainet'
const STORE = 'identity'
const KEY = 'ed25519'
const AIM = 'aim' // of the last search for a nearer one, and what came of it
const LOCK = 'kwaainet-identity'
const SEED_SIZE = 32
const SPARE_BITS = 1 // more that a new one is given: the swarm may double before it has to be replaced
const GRIND_TIME = 2000 // ms; then the best so far is taken. Python starts meanwhile
const BATCH = 32 // keys at a time: the browser makes them on threads of its own
const LOCK_PATIENCE = 3000 // ms: a reloaded page's predecessor lets go of the lock only when it is gone

/** The seed, while this worker lives nobody else's. Throws CapacityError if another tab uses it. */
export async function takeIdentity (near: Nearness, bits: number): Promise<Bytes> {
  await takeLock()
  const database = await openDatabase()
  try {
    const [found, aim] = await Promise.all([KEY, AIM].map(async key => await request<unknown>(database.transaction(STORE).objectStore(STORE).get(key))))
    const kept = found instanceof Uint8Array && found.length === SEED_SIZE ? found.slice() : undefined
    if (kept !== undefined && (bits === 0 || isEnough(await near(kept.slice()), bits, aim))) return kept
    const seed = await newSeed(near, bits, undefined, kept)
    const shared = bits === 0 ? 0 : await near(seed)
    const store = database.transaction(STORE, 'readwrite', { durability: 'strict' }).objectStore(STORE)
    await Promise.all([request(store.put({ bits, shared }, AIM)), request(store.put(seed, KEY))])
    return seed
  } finally {
    database.close()
  }
}

/** Whether an identity with so many bits may stay: it has what is asked for, or the most that a search for as much could find. */
export function isEnough (shared: number, bits: number, aim: unknown): boolean {
  const last = (aim ?? {}) as Record<string, unknown>
  return shared >= bits || (last.shared === shared && typeof last.bits === 'number' && last.bits >= bits)
}

/** With how many of its bits the place of a seed's peer begins as it should. */
export type Nearness = (seed: Bytes) => Promise<number>

/** A seed that is nobody's yet: the first that is near enough, else the nearest that is found in time, `best` among them. */
export async function newSeed (near: Nearness, bits: number, now = (): number => performance.now(), best = random()): Promise<Bytes> {
  const deadline = now() + GRIND_TIME
  for (let shared = bits === 0 ? 0 : await near(best); bits > 0 && shared < bits + SPARE_BITS && now() < deadline;) {
    const seeds = Array.from({ length: BATCH }, random)
    for (const [index, found] of (await Promise.all(seeds.map(near))).entries()) {
      if (found > shared) [best, shared] = [seeds[index]!, found]
    }
  }
  return best
}

function random (): Bytes {
  return crypto.getRandomValues(new Uint8Array(SEED_SIZE))
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
