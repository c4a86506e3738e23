// What the network worker knows of its sockets when its page goes.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { flushed, watchSockets } from '../../web/bridge/sockets.ts'

class FakeSocket extends EventTarget {
  bufferedAmount = 0
  readonly words: unknown[]

  constructor (...words: unknown[]) {
    super()
    this.words = words
  }
}

test('it resolves once no open socket holds anything back', async () => {
  const before = globalThis.WebSocket
  globalThis.WebSocket = FakeSocket as unknown as typeof WebSocket
  try {
    watchSockets()
    await flushed()
    const [one, other] = [new WebSocket('ws://one'), new WebSocket('ws://other', 'words')] as unknown as [FakeSocket, FakeSocket]
    assert.deepEqual(other.words, ['ws://other', 'words'])
    one.bufferedAmount = other.bufferedAmount = 9
    let done = false
    const waiting = flushed().then(() => { done = true })
    one.bufferedAmount = 0
    await new Promise(resolve => setTimeout(resolve, 20))
    assert.equal(done, false, 'the other one still holds something')
    other.dispatchEvent(new Event('close'))
    await waiting
  } finally {
    globalThis.WebSocket = before
  }
})
