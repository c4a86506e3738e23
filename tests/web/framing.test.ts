// Hivemind's framing against bytes that the real packages made, and against bytes nobody should send.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import test from 'node:test'
import { encodeEnd, encodeError, encodeMessage, encodeRequest, encodeResponse, readFrame, readRequest, readResponse } from '../../web/bridge/framing.ts'
import { Reader } from '../../web/bridge/reader.ts'
import { MAX_FRAME_SIZE, MAX_UNARY_SIZE } from '../../web/worker/messages.ts'
import { fromHex, MemoryStream, toHex } from './stream_pair.ts'

const vectors = JSON.parse(readFileSync(new URL('../vectors/hivemind.json', import.meta.url), 'utf8')) as Record<string, string>
const CALL_ID = Uint8Array.from({ length: 16 }, (_, index) => index)
const utf8 = new TextEncoder()

/** A reader of exactly these bytes and then the end, in pieces of `step`. */
function readerOf (data: Uint8Array, step = data.length): Reader {
  const stream = new MemoryStream()
  const reader = new Reader(stream)
  for (let offset = 0; offset < data.length; offset += step) stream.arrive(data.subarray(offset, offset + step))
  stream.emit('remoteCloseWrite', {})
  return reader
}

const named = (name: string) => (error: Error) => error.name === name

test('unary messages are those of hivemind byte for byte', () => {
  assert.equal(toHex(encodeRequest(CALL_ID, utf8.encode('PPPP'), 'A.rpc_x', utf8.encode('d'))), vectors.unary_req)
  assert.equal(toHex(encodeResponse(CALL_ID, { body: utf8.encode('r') })), vectors.unary_resp)
})

test('frames are those of hivemind byte for byte', () => {
  assert.equal(toHex(encodeMessage(utf8.encode('abc'))), vectors.frame_message)
  assert.equal(toHex(encodeEnd()), vectors.frame_end)
  assert.equal(toHex(encodeError('boom')), vectors.frame_error)
})

for (const step of [1, 3, 1000]) {
  test(`golden bytes are read back from pieces of ${step}`, async () => {
    const request = await readRequest(readerOf(fromHex(vectors.unary_req!), step))
    assert.deepEqual([toHex(request.callId), request.protocol, toHex(request.body)], [toHex(CALL_ID), 'A.rpc_x', toHex(utf8.encode('d'))])
    const response = await readResponse(readerOf(fromHex(vectors.unary_resp!), step), CALL_ID)
    assert.ok('body' in response && toHex(response.body) === toHex(utf8.encode('r')))
    const frames = readerOf(fromHex(vectors.frame_message! + vectors.frame_error! + vectors.frame_end!), step)
    const message = await readFrame(frames)
    assert.ok(message !== null && 'body' in message && toHex(message.body) === toHex(utf8.encode('abc')))
    assert.deepEqual(await readFrame(frames), { error: 'boom' })
    assert.deepEqual(await readFrame(frames), { error: '' })
    assert.equal(await readFrame(frames), null)
  })
}

test('a body is a buffer of its own, so that transferring it takes no neighbour along', async () => {
  const { body } = await readRequest(readerOf(fromHex(vectors.unary_req!)))
  assert.equal(body.buffer.byteLength, body.length)
  const frame = await readFrame(readerOf(fromHex(vectors.frame_message!)))
  assert.ok(frame !== null && 'body' in frame && frame.body.buffer.byteLength === frame.body.length)
})

test('an error of the callee is told from an empty answer', async () => {
  const failed = await readResponse(readerOf(encodeResponse(CALL_ID, { error: 'ValueError()' })), CALL_ID)
  assert.deepEqual(failed, { error: 'ValueError()' })
  const empty = await readResponse(readerOf(encodeResponse(CALL_ID, { body: new Uint8Array(0) })), CALL_ID)
  assert.ok('body' in empty && empty.body.length === 0)
})

test('an answer to another call is refused', async () => {
  const other = encodeResponse(new Uint8Array(16), { body: utf8.encode('r') })
  await assert.rejects(readResponse(readerOf(other), CALL_ID), named('ProtocolError'))
})

test('every truncation of a message is an error, never an answer', async () => {
  for (const golden of [vectors.unary_req!, vectors.unary_resp!]) {
    const whole = fromHex(golden)
    for (let length = 0; length < whole.length; length++) {
      const read = golden === vectors.unary_req ? readRequest(readerOf(whole.subarray(0, length))) : readResponse(readerOf(whole.subarray(0, length)), CALL_ID)
      await assert.rejects(read, (error: Error) => ['StreamReset', 'ProtocolError'].includes(error.name), `${length} bytes`)
    }
  }
  const frame = fromHex(vectors.frame_message!)
  for (let length = 1; length < frame.length; length++) {
    await assert.rejects(readFrame(readerOf(frame.subarray(0, length))), named('StreamReset'))
  }
})

test('lengths beyond the caps are refused before anything is read', async () => {
  await assert.rejects(readFrame(readerOf(Uint8Array.of(0, 0, 0, 0, 0, 0xff, 0, 0, 0))), named('LimitExceeded'))
  await assert.rejects(readFrame(readerOf(Uint8Array.of(0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff))), named('LimitExceeded'))
  await assert.rejects(readRequest(readerOf(Uint8Array.of(0x81, 0x80, 0x80, 0x02))), named('LimitExceeded'))
  await assert.rejects(readRequest(readerOf(Uint8Array.of(0xff, 0xff, 0xff, 0xff, 0xff))), named('LimitExceeded'))
  assert.throws(() => encodeResponse(CALL_ID, { body: new Uint8Array(MAX_UNARY_SIZE) }), named('LimitExceeded'))
  assert.throws(() => encodeMessage(new Uint8Array(MAX_FRAME_SIZE + 1)), named('LimitExceeded'))
})

test('a big frame arrives whole', async () => {
  const body = Uint8Array.from({ length: 3_000_000 }, (_, index) => index % 251)
  const frame = await readFrame(readerOf(encodeMessage(body), 65_536))
  assert.ok(frame !== null && 'body' in frame && Buffer.compare(frame.body, body) === 0)
})

test('arbitrary bytes give protocol errors and nothing else', async () => {
  let seed = 12345
  const random = (limit: number): number => (seed = (seed * 1103515245 + 12345) % 2147483648) % limit
  for (let round = 0; round < 500; round++) {
    const data = Uint8Array.from({ length: 1 + random(60) }, () => random(256))
    data[0] = random(64)
    for (const read of [readRequest(readerOf(data)), readResponse(readerOf(data), CALL_ID), readFrame(readerOf(data))]) {
      await read.catch((error: Error) => {
        assert.ok(['ProtocolError', 'StreamReset', 'LimitExceeded'].includes(error.name), `${toHex(data)}: ${error.stack}`)
      })
    }
  }
})

test('a foreign marker is named', async () => {
  await assert.rejects(readFrame(readerOf(Uint8Array.of(7, 0, 0, 0, 0, 0, 0, 0, 0))), /begins with 7/)
})
