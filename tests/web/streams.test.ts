// Sending on a stream waits for the other end, every time.

import assert from 'node:assert/strict'
import test from 'node:test'
import { write } from '../../web/bridge/streams.ts'
import { MemoryStream, settle } from './stream_pair.ts'

/** Whether the promise is settled once everything that is ready has run. */
async function isDone (promise: Promise<void>): Promise<boolean> {
  let done = false
  promise.then(() => { done = true }, () => { done = true })
  await settle()
  return done
}

test('each write waits for a drain of its own', async () => {
  const stream = new MemoryStream()
  for (let round = 0; round < 3; round++) {
    stream.writableNeedsDrain = true
    const writing = write(stream, Uint8Array.of(round))
    assert.equal(await isDone(writing), false)
    stream.emit('drain', {}) // but what was queued has filled the window again
    assert.equal(await isDone(writing), false)
    stream.writableNeedsDrain = false
    stream.emit('drain', {})
    assert.equal(await isDone(writing), true)
  }
})

test('a stream that breaks ends the waiting', async () => {
  const stream = new MemoryStream()
  stream.writableNeedsDrain = true
  const writing = write(stream, Uint8Array.of(1))
  stream.emit('close', { error: new Error('reset by the other end') })
  await assert.rejects(writing, /reset by the other end/)
})
