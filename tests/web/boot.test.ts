// The interpreter is compiled while its loader comes, and one that cannot be had is told, not waited for.

import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import { after, test } from 'node:test'
import { fill, withInterpreter } from '../../web/worker/boot.ts'

const EMPTY = Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0) // a module of nothing
const asked: string[] = []
const server = createServer(({ url = '' }, response) => {
  asked.push(url)
  if (url === '/gone') response.writeHead(404).end()
  else if (url === '/cut') response.writeHead(200, { 'Content-Type': 'application/wasm', 'Content-Length': 100 }).write(EMPTY, () => { response.destroy() })
  else response.writeHead(200, { 'Content-Type': 'application/wasm' }).end(EMPTY)
})
await new Promise<void>(resolve => { server.listen(0, '127.0.0.1', resolve) })
after(() => { server.close() })
const { port } = server.address() as { port: number }
const site = `http://127.0.0.1:${port}`
const { instantiateStreaming } = WebAssembly
const fetched = globalThis.fetch

/** As Pyodide: what it asked for itself is instantiated with its imports, and a failure is swallowed. */
async function pyodide (url: string): Promise<WebAssembly.Instance> {
  const asks = fetch(new URL(url))
  return await new Promise(resolve => {
    WebAssembly.instantiateStreaming(asks, {}).then(({ instance }) => { resolve(instance) }, () => {})
  })
}

test('it is asked for once, before its loader, and instantiated when that asks', async () => {
  const instance = await withInterpreter(`${site}/core.wasm`, async () => {
    while (asked.length === 0) await new Promise(resolve => setImmediate(resolve))
    return await pyodide(`${site}/core.wasm`)
  })
  assert.ok(instance instanceof WebAssembly.Instance)
  assert.deepEqual(asked, ['/core.wasm'])
  assert.equal(globalThis.fetch, fetched)
  assert.equal(WebAssembly.instantiateStreaming, instantiateStreaming)
})

for (const file of ['gone', 'cut']) {
  test(`one that is ${file} is told by its address`, async () => {
    await assert.rejects(withInterpreter(`${site}/${file}`, async () => await pyodide(`${site}/${file}`)), new RegExp(`${site}/${file}: `))
    assert.equal(WebAssembly.instantiateStreaming, instantiateStreaming)
  })
}

test('each piece of the memory is told as it comes', async () => {
  const memory = new Uint8Array(EMPTY.length)
  let pieces = 0
  await fill(memory, new URL(`${site}/memory`), () => { pieces++ })
  assert.deepEqual(memory, EMPTY)
  assert.ok(pieces > 0)
  await assert.rejects(fill(new Uint8Array(9), new URL(`${site}/memory`), () => {}), /has other than 9 bytes/)
})

test('a loader that fails is told as it failed', async () => {
  await assert.rejects(withInterpreter(`${site}/core.wasm`, async () => { throw new Error('no loader') }), /^Error: no loader$/)
})
