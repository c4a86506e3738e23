// Ranges over HTTP against a server that behaves and several that do not.

import assert from 'node:assert/strict'
import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import test from 'node:test'
import { fetchRange } from '../../web/bridge/ranges.ts'

const FILE = Uint8Array.from({ length: 1000 }, (_, index) => index % 256)

async function serving (answer: (range: string, response: ServerResponse) => void, use: (url: string) => Promise<void>): Promise<void> {
  const server = createServer((request, response) => { answer(request.headers.range ?? '', response) })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  try {
    await use(`http://127.0.0.1:${(server.address() as AddressInfo).port}/f`)
  } finally {
    server.closeAllConnections()
    server.close()
  }
}

test('a range is asked for and returned with the whole size', async () => {
  await serving((range, response) => {
    assert.equal(range, 'bytes=10-19')
    response.writeHead(206, { 'Content-Range': 'bytes 10-19/1000' }).end(FILE.subarray(10, 20))
  }, async url => {
    assert.deepEqual(await fetchRange(url, 10, 10), { status: 206, total: 1000, body: FILE.slice(10, 20), reason: '' })
  })
})

test('a server without ranges is not listened to, unless all of the file was wanted', async () => {
  await serving((_, response) => { response.writeHead(200, { 'Content-Length': '1000' }).end(FILE) }, async url => {
    const part = await fetchRange(url, 0, 10)
    assert.deepEqual([part.status, part.total, part.body], [200, 1000, null])
    assert.deepEqual((await fetchRange(url, 0, 1000)).body, FILE)
  })
})

test('a server that sends more than asked for is cut off', async () => {
  await serving((_, response) => { response.writeHead(206).end(FILE) }, async url => {
    assert.deepEqual((await fetchRange(url, 0, 7)).body, FILE.slice(0, 7))
  })
})

test('what the server or the network does is told, not thrown', async () => {
  await serving((_, response) => { response.writeHead(404).end() }, async url => {
    assert.deepEqual(await fetchRange(url, 0, 5), { status: 404, total: -1, body: null, reason: 'Not Found' })
  })
  const { status, body, reason } = await fetchRange('http://127.0.0.1:1/', 0, 5)
  assert.deepEqual([status, body], [0, null])
  assert.notEqual(reason, '')
})

test('a connection that breaks in the middle gives what came before, and why it is not all', async () => {
  await serving((_, response) => {
    response.writeHead(206, { 'Content-Length': '100' }).write(FILE.subarray(0, 50))
    setImmediate(() => { response.destroy() })
  }, async url => {
    const { status, body, reason } = await fetchRange(url, 0, 100)
    assert.deepEqual([status, body], [206, FILE.slice(0, 50)])
    assert.notEqual(reason, '')
  })
})

test('bytes are told as they come, and how many an answer brought when it has ended', async () => {
  const told: Array<[string, number]> = []
  await serving((_, response) => { response.writeHead(206).end(FILE) }, async url => {
    await fetchRange(url, 0, 100, { received: bytes => { if (bytes > 0) told.push(['received', bytes]) }, settled: bytes => { told.push(['settled', bytes]) } })
  })
  assert.deepEqual(told.at(-1), ['settled', 100])
  assert.equal(told.slice(0, -1).reduce((sum, [, bytes]) => sum + bytes, 0), 100)
})
