// The store worker's blobs seen from where Python is: read ahead, asked for, and a store worker that breaks.

import assert from 'node:assert/strict'
import test, { mock } from 'node:test'
import { RemoteBlobs, type StorePort } from '../../web/worker/blobs.ts'
import { blobsIn, blobsOf } from '../../web/worker/manifest.ts'
import type { FromStore, ToStore } from '../../web/worker/store_messages.ts'

mock.timers.enable({ apis: ['setTimeout'] }) // nobody waits for a store that was asked for nothing more

/** A store worker that answers when it is told to. */
class FakePort implements StorePort {
  readonly sent: ToStore[] = []
  onmessage: StorePort['onmessage'] = null
  onerror: StorePort['onerror'] = null

  postMessage (message: ToStore): void {
    this.sent.push(message)
  }

  say (message: FromStore): void {
    this.onmessage?.({ data: message } as MessageEvent<FromStore>)
  }

  break (reason: string): void {
    this.onerror?.({ message: reason } as ErrorEvent)
  }
}

const known = (digest: string, length = 10): { digest: string, length: number, model: string, block: number } => ({ digest, length, model: 'm', block: 0 })

test('what was read ahead is handed out once, however early or late it comes', async () => {
  const port = new FakePort()
  const blobs = new RemoteBlobs(port, 500)
  blobs.expect([known('a'), known('b'), known('c')], [known('a'), known('b'), known('a')])
  assert.deepEqual(port.sent[0], { type: 'open', budget: 500 })
  assert.deepEqual(port.sent[1]?.type === 'expect' && port.sent[1].ahead, ['a', 'b'])
  port.say({ type: 'ahead', digest: 'a', data: Uint8Array.of(1) })
  assert.deepEqual(await blobs.read('a'), Uint8Array.of(1))
  const early = blobs.read('b')
  port.say({ type: 'ahead', digest: 'b', data: null })
  assert.equal(await early, null)
  assert.equal(port.sent.length, 2, 'nothing had to be asked for')
  const again = blobs.read('a')
  const asked = port.sent[2] as ToStore & { id: number }
  assert.deepEqual([asked.type, asked.id > 0], ['read', true])
  port.say({ type: 'answer', id: asked.id, result: Uint8Array.of(2) })
  assert.deepEqual(await again, Uint8Array.of(2))
})

test('no more is read ahead than memory is meant for', () => {
  const port = new FakePort()
  const blobs = new RemoteBlobs(port)
  const big = ['a', 'b', 'c'].map(digest => known(digest, 300 * 2 ** 20))
  blobs.expect(big, big)
  assert.deepEqual(port.sent[1]?.type === 'expect' && port.sent[1].ahead, ['a'])
})

test('a store worker that forgets a question holds nobody up for long', async () => {
  const port = new FakePort()
  const blobs = new RemoteBlobs(port)
  blobs.expect([known('a')], [known('a')])
  const [ahead, written, later] = [blobs.read('a'), blobs.write('b', Uint8Array.of(1)), blobs.write('c', Uint8Array.of(2))]
  mock.timers.tick(29_000)
  const ids = port.sent.map(message => 'id' in message ? message.id : 0)
  port.say({ type: 'answer', id: ids.at(-1)!, result: '' })
  assert.equal(await later, '')
  mock.timers.tick(29_999) // since its last word
  const lost = [ahead, written].map(async answer => await Promise.race([answer, new Promise(resolve => { setImmediate(resolve, 'waits') })]))
  assert.deepEqual(await Promise.all(lost), ['waits', 'waits'])
  mock.timers.tick(1)
  assert.equal(await ahead, null)
  assert.match(await written, /said nothing for 30 s/)
  assert.match((await blobs.room()).message, /keeps no weights: its storage said nothing/)
})

test('a store worker that breaks is a store that keeps nothing', async () => {
  const port = new FakePort()
  const blobs = new RemoteBlobs(port)
  blobs.expect([known('a')], [known('a')])
  const waiting = [blobs.read('a'), blobs.read('b'), blobs.write('b', Uint8Array.of(1))]
  port.break('no workers here')
  assert.deepEqual(await Promise.all(waiting), [null, null, 'no workers here'])
  assert.equal(await blobs.read('c'), null)
  assert.equal(await blobs.writePart('c', 0, Uint8Array.of(1)), 'no workers here')
  mock.timers.tick(60_000) // it owes nothing any more
  const { kept, message } = await blobs.room()
  assert.deepEqual([kept, /no workers here/.test(message)], [false, true])
})

test('a manifest tells which blobs a node needs, in the order of its blocks', () => {
  const tensor = (sha256: string): { sha256: string, length: number } => ({ sha256, length: 1 })
  const all = blobsOf(JSON.stringify({
    name: 'm',
    tensors: { 'model.layers.10.a': tensor('10a'), 'model.layers.2.a': tensor('2a'), 'lm_head.weight': tensor('head'), 'model.layers.2.b': tensor('2b') }
  }))
  assert.deepEqual(all.map(({ digest, block }) => [digest, block]), [['head', null], ['2a', 2], ['2b', 2], ['10a', 10]])
  const needed = (blocks: string): string[] => blobsIn(all, blocks).map(({ digest }) => digest)
  assert.deepEqual(needed(''), ['2a', '2b', '10a'])
  assert.deepEqual(needed('2:10'), ['2a', '2b'])
  assert.deepEqual(needed('auto:3'), [], 'they are yet to be chosen')
})
