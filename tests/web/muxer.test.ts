// What yamux's streams say to grant their peer more, with js-libp2p's own yamux on both ends.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { yamux } from '@libp2p/yamux'
import { multiaddrConnectionPair } from '@libp2p/utils'
import { sparing } from '../../web/bridge/muxer.ts'

const HEADER = 12
const WINDOW_UPDATE = 1
const HALF = 128 * 1024

/** A stream from one end to the other, and the window updates that either connection was given to send. */
async function streams (make: (components?: any) => any) {
  const [near, far] = multiaddrConnectionPair()
  const updates = { near: 0, far: 0 }
  for (const [name, connection] of [['near', near], ['far', far]] as const) {
    const send = connection.send.bind(connection)
    connection.send = data => {
      if (data.byteLength === HEADER && data.subarray()[1] === WINDOW_UPDATE) updates[name]++
      return send(data)
    }
  }
  const factory = make()
  const [client, server] = [factory.createStreamMuxer(near), factory.createStreamMuxer(far)]
  const accepted = new Promise<any>(resolve => { server.addEventListener('stream', ({ detail }: any) => { resolve(detail) }) })
  const stream = await client.createStream()
  stream.send(new Uint8Array(1))
  const other = await accepted
  return { stream, other, updates }
}

/** The bytes `stream` hears from now on. */
function counting (stream: any): { bytes: number, reach: (size: number) => Promise<void> } {
  let wake = (): void => {}
  const counted = {
    bytes: 0,
    reach: async (size: number) => {
      while (counted.bytes < size) await new Promise<void>(resolve => { wake = resolve })
    }
  }
  stream.addEventListener('message', ({ data }: any) => {
    counted.bytes += data.byteLength
    wake()
  })
  return counted
}

const options = { enableKeepAlive: false, streamOptions: { maxStreamWindowSize: 1024 * 1024 } }

test('small messages are not answered, half a window is', async () => {
  const { stream, other, updates } = await streams(sparing(yamux(options)))
  const heard = counting(other)
  for (let count = 0; count < 50; count++) stream.send(new Uint8Array(1000))
  await heard.reach(50_001)
  const opening = updates.far
  assert.ok(opening <= 1, `${opening} updates, one says that the stream is open`)
  stream.send(new Uint8Array(HALF))
  await heard.reach(50_001 + HALF)
  assert.equal(updates.far, opening + 1)
})

test('without it every message is answered', async () => {
  const { stream, other, updates } = await streams(yamux(options))
  const heard = counting(other)
  for (let count = 0; count < 50; count++) {
    stream.send(new Uint8Array(1000))
    await heard.reach(1000 * (count + 1))
  }
  assert.ok(updates.far >= 50, 'or this file is not needed any more')
})

test('many windows of bytes pass either way', async () => {
  const { stream, other } = await streams(sparing(yamux(options)))
  const size = 3_000_000
  for (const [from, to] of [[stream, other], [other, stream]]) {
    const heard = counting(to)
    if (!from.send(new Uint8Array(size))) await from.onDrain()
    await heard.reach(size)
  }
})

test('a reader that pauses is given no more than its window, and all once it resumes', async () => {
  const { stream, other } = await streams(sparing(yamux(options)))
  const heard = counting(other)
  await heard.reach(1)
  other.pause()
  const size = 1_500_000
  stream.send(new Uint8Array(size))
  while (other.readBufferLength < HALF) await new Promise(resolve => setImmediate(resolve))
  assert.equal(heard.bytes, 1)
  assert.ok(other.readBufferLength <= 1024 * 1024, `${other.readBufferLength} bytes are held`)
  other.resume()
  await heard.reach(1 + size)
})
