// Ranges over HTTP against a server that behaves and one that does not; blobs against a folder in memory.

import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import test from 'node:test'
import { Blobs, fetchRange } from '../../web/bridge/store.ts'

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

test('a connection that breaks in the middle gives no answer', async () => {
  await serving((_, response) => {
    response.writeHead(206, { 'Content-Length': '100' }).write(FILE.subarray(0, 50))
    setImmediate(() => { response.destroy() })
  }, async url => {
    assert.deepEqual((await fetchRange(url, 0, 100)).status, 0)
  })
})

/** OPFS as far as Blobs uses it. `full`: writing fails as at the quota. */
class MemoryFolder {
  readonly files = new Map<string, Uint8Array<ArrayBuffer>>()
  readonly #open = new Set<string>()
  full = false

  async getFileHandle (name: string, options?: { create: boolean }): Promise<unknown> {
    if (!this.files.has(name) && options?.create !== true) throw new DOMException('absent', 'NotFoundError')
    if (!this.files.has(name)) this.files.set(name, new Uint8Array(0))
    return {
      getFile: async () => new Blob([this.files.get(name)!]),
      createSyncAccessHandle: async () => {
        if (this.#open.has(name)) throw new DOMException('another handle is open', 'NoModificationAllowedError')
        this.#open.add(name)
        return this.#access(name)
      }
    }
  }

  #access (name: string): unknown {
    return {
      truncate: () => {},
      write: (data: Uint8Array<ArrayBuffer>) => {
        if (this.full) throw new DOMException('no room', 'QuotaExceededError')
        this.files.set(name, data.slice())
      },
      flush: () => {},
      close: () => { this.#open.delete(name) }
    }
  }

  async removeEntry (name: string): Promise<void> { this.files.delete(name) }
}

const digestOf = (data: Uint8Array): string => createHash('sha256').update(data).digest('hex')

test('a blob comes back; a damaged one is dropped', async () => {
  const folder = new MemoryFolder()
  const blobs = new Blobs(folder as unknown as FileSystemDirectoryHandle)
  const digest = digestOf(FILE)
  assert.equal(await blobs.read(digest), null)
  assert.equal(await blobs.write(digest, FILE.slice()), '')
  assert.deepEqual(await blobs.read(digest), FILE)
  folder.files.get(digest)![3]! ^= 1
  assert.equal(await blobs.read(digest), null)
  assert.equal(folder.files.size, 0)
})

test('wrong bytes are refused, and a full disk is a reason', async () => {
  const folder = new MemoryFolder()
  const blobs = new Blobs(folder as unknown as FileSystemDirectoryHandle)
  assert.equal(await blobs.write(digestOf(Uint8Array.of(1)), FILE.slice()), 'mismatch')
  folder.full = true
  assert.equal(await blobs.write(digestOf(FILE), FILE.slice()), 'no room')
  assert.equal(folder.files.size, 0, 'no half-written file stays')
})

test('the same bytes kept twice at once are kept', async () => {
  const folder = new MemoryFolder()
  const blobs = new Blobs(folder as unknown as FileSystemDirectoryHandle)
  const digest = digestOf(FILE)
  assert.deepEqual(await Promise.all([blobs.write(digest, FILE.slice()), blobs.write(digest, FILE.slice())]), ['', ''])
  assert.equal(await blobs.write(digest, FILE.slice()), '')
  assert.deepEqual(await blobs.read(digest), FILE)
})
