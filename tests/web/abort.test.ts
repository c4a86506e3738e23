// Calls that may last are given up by their signals, whatever the browser is still at.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { abortable, cutShort } from '../../web/sdk/abort.ts'
import { MemoryFolder } from './memory_folder.ts'

const never = async (): Promise<never> => await new Promise(() => {})
const root = { getDirectoryHandle: never as () => Promise<unknown>, removeEntry: async () => { throw new DOMException('', 'NoModificationAllowedError') } }
const storage = { getDirectory: async () => root, persisted: async () => false, persist: never }
Object.defineProperty(globalThis, 'navigator', { value: { hardwareConcurrency: 2, storage, gpu: { requestAdapter: never } } })
Object.assign(globalThis, { isSecureContext: true, crossOriginIsolated: false, indexedDB: { deleteDatabase: () => ({}) } })
const { askToKeep, cacheEntries, clearCache, forgetIdentity } = await import('../../web/sdk/cache.ts')
const { preflight } = await import('../../web/sdk/preflight.ts')

const CALLS: Record<string, (signal: AbortSignal) => Promise<unknown>> = {
  askToKeep: async signal => await askToKeep({ signal }),
  cacheEntries: async signal => await cacheEntries({ signal }),
  clearCache: async signal => await clearCache({}, { signal }),
  forgetIdentity: async signal => { await forgetIdentity({ signal }) },
  preflight: async signal => await preflight(undefined, undefined, { signal })
}

for (const [name, call] of Object.entries(CALLS)) {
  test(`${name} is given up`, async () => {
    await assert.rejects(call(AbortSignal.abort(new Error('before'))), /before/)
    const control = new AbortController()
    const called = call(control.signal)
    control.abort(new Error('meanwhile'))
    await assert.rejects(called, /meanwhile/)
  })
}

test('clearing that is given up leaves what is left', async () => {
  const folder = new MemoryFolder()
  for (const name of 'abcdefghijklmnopqrst') await folder.getFileHandle(name, { create: true })
  const control = new AbortController()
  const { removeEntry } = folder
  folder.removeEntry = async (name: string) => {
    await removeEntry.call(folder, name)
    control.abort(new Error('enough'))
  }
  root.getDirectoryHandle = async () => folder
  await assert.rejects(clearCache({}, { signal: control.signal }), /enough/)
  const left = (await cacheEntries()).length
  assert.ok(left > 0 && left < 20, `${left} left`)
})

test('work is its own where no signal comes, and what it does later is nobody\'s', async () => {
  assert.equal(await abortable(Promise.resolve(1), undefined), 1)
  assert.equal(await abortable(Promise.resolve(1), new AbortController().signal), 1)
  await assert.rejects(abortable(Promise.reject(new Error('its own')), new AbortController().signal), /its own/)
  const cuts: string[] = []
  const late = new AbortController()
  await cutShort(Promise.resolve(), late.signal, () => cuts.push('late'))
  late.abort()
  await cutShort(Promise.resolve(), AbortSignal.abort(), () => cuts.push('early'))
  assert.deepEqual(cuts, ['early'])
})
