// A worker's end is seen though it says nothing, and only then.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { nameLife, showLife, watchLife } from '../../web/bridge/life.ts'

/** Web Locks whose holders can be ended. */
class Locks {
  readonly #held = new Map<string, () => void>()

  async request (name: string, ...[options, last]: any[]): Promise<unknown> {
    const { signal, ifAvailable } = (last === undefined ? {} : options) as LockOptions
    const hold = (last ?? options) as (lock: object | null) => Promise<unknown>
    if (ifAvailable === true) return await hold(this.#held.has(name) ? null : {})
    if (this.#held.has(name)) {
      await new Promise<void>((resolve, reject) => {
        const before = this.#held.get(name)!
        this.#held.set(name, () => { before(); resolve() })
        signal?.addEventListener('abort', () => { reject(signal.reason as Error) })
      })
    } else this.#held.set(name, () => {})
    return await hold({})
  }

  end (name: string): void { this.#held.get(name)?.() }
}

const settled = async (): Promise<void> => { await new Promise(resolve => setImmediate(resolve)) }

test('the end of a worker is told once, that of one which was let go never', async () => {
  const locks = new Locks()
  Object.defineProperty(globalThis, 'navigator', { value: { locks }, configurable: true })
  const told: string[] = []
  const names = [nameLife(), nameLife()] as const
  assert.notEqual(names[0], names[1])
  const leave = new AbortController()
  for (const name of names) {
    Object.assign(globalThis, { name })
    await showLife()
    watchLife(`${name}-of-one-without-locks`, new AbortController().signal, () => { assert.fail() })
    watchLife(name, name === names[1] ? leave.signal : new AbortController().signal, () => { told.push(name) })
  }
  await settled()
  assert.deepEqual(told, [])
  leave.abort()
  for (const name of names) locks.end(name)
  await settled()
  assert.deepEqual(told, [names[0]])
})

test('where there are no locks, or no name, nothing is watched', async () => {
  Object.assign(globalThis, { name: '' })
  await showLife()
  Object.defineProperty(globalThis, 'navigator', { value: {}, configurable: true })
  Object.assign(globalThis, { name: 'a' })
  await showLife()
  watchLife('a', new AbortController().signal, () => { assert.fail() })
  await settled()
})
