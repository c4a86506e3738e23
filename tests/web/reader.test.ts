// Back-pressure: a reader that does not keep up pauses its stream long before js-libp2p would abort it.

import assert from 'node:assert/strict'
import test from 'node:test'
import { Reader } from '../../web/bridge/reader.ts'
import { MemoryStream, settle } from './stream_pair.ts'

const PIECE = 64 * 1024

test('a stream nobody reads is paused, and resumed when its bytes are taken', async () => {
  const stream = new MemoryStream()
  const reader = new Reader(stream)
  for (let index = 0; index < 64; index++) stream.arrive(new Uint8Array(PIECE).fill(index))
  assert.equal(stream.readStatus, 'paused')
  assert.ok(stream.held > 50, `${stream.held} of 64 pieces were held back`)
  for (let index = 0; index < 64; index++) {
    const piece = await reader.exactly(PIECE)
    assert.ok(piece.every(byte => byte === index))
  }
  assert.equal(stream.held, 0)
  assert.equal(stream.readStatus, 'readable')
})

test('pieces do not depend on how the bytes arrived', async () => {
  const stream = new MemoryStream()
  const reader = new Reader(stream)
  const reading = reader.exactly(5)
  stream.arrive(Uint8Array.of(1, 2))
  stream.arrive(new Uint8Array(0))
  stream.arrive(Uint8Array.of(3, 4, 5, 6))
  assert.deepEqual([...await reading], [1, 2, 3, 4, 5])
  assert.deepEqual([...await reader.exactly(1)], [6])
  assert.deepEqual([...await reader.exactly(0)], [])
})

test('the end is seen after what came before it', async () => {
  const stream = new MemoryStream()
  const reader = new Reader(stream)
  stream.arrive(Uint8Array.of(1))
  stream.emit('remoteCloseWrite', {})
  assert.equal(await reader.ended(), false)
  await reader.exactly(1)
  assert.equal(await reader.ended(), true)
})

test('an end in the middle of a piece is a reset that says how far it came', async () => {
  const stream = new MemoryStream()
  const reader = new Reader(stream)
  stream.arrive(Uint8Array.of(1, 2))
  stream.emit('remoteCloseWrite', {})
  await assert.rejects(reader.exactly(9), /after 2 of 9 bytes/)
})

test('a broken stream wakes who waits', async () => {
  const stream = new MemoryStream()
  const reader = new Reader(stream)
  const waiting = reader.exactly(1)
  stream.emit('close', { error: new Error('reset by peer') })
  await assert.rejects(waiting, (error: Error) => error.name === 'StreamReset' && /reset by peer/.test(error.message))
  await settle()
})

test('what came before the reader is not lost, neither bytes nor the end', async () => {
  const stream = new MemoryStream()
  stream.arrive(Uint8Array.of(1, 2))
  stream.emit('remoteCloseWrite', {})
  const reader = new Reader(stream)
  assert.equal(await reader.ended(), false)
  assert.deepEqual([...await reader.exactly(2)], [1, 2])
  assert.equal(await reader.ended(), true)
})

test('a stream that was reset before it was read says so', async () => {
  const stream = new MemoryStream()
  stream.emit('close', { error: new Error('gone') })
  await assert.rejects(new Reader(stream).ended(), /reset before/)
})
