// What a relay says of itself is checked before anything is started.

import assert from 'node:assert/strict'
import test from 'node:test'
import { askOrigin, checkBlocks, readOrigin } from '../../web/sdk/origin.ts'

const RELAY = '/ip4/127.0.0.1/tcp/1/ws/p2p/12D3KooWRelay'
const workers = { api: 1, network: '/assets/network.js?v=1', node: '/assets/node.js', client: '/assets/client.js' }
const MODEL = { prefix: 'm', num_blocks: 4, manifest: '/model/manifest.json', files: '/model/' }

test('addresses become absolute, and only those a browser can dial are kept', () => {
  const origin = readOrigin('http://localhost:8/', { relay: ['/ip4/127.0.0.1/tcp/2/p2p/12D3KooWRelay', RELAY], model: MODEL, workers, version: '1' })
  assert.deepEqual(origin.relays, [RELAY])
  assert.equal(origin.models[0]!.manifest, 'http://localhost:8/model/manifest.json')
  assert.equal(origin.models[0]!.files, 'http://localhost:8/model/')
})

test('of several models the one that is named is served, else the first', async () => {
  const models = ['a', 'b'].map(prefix => ({ ...MODEL, prefix, bytes: 5 }))
  globalThis.fetch = async () => new Response(JSON.stringify({ relay: [RELAY], model: models[0], models, workers }))
  for (const [asked, found] of [['', 'a'], ['a', 'a'], ['b', 'b']] as const) assert.equal((await askOrigin('http://x', asked)).model.prefix, found)
  await assert.rejects(askOrigin('http://x', 'c'), /http:\/\/x offers a, b, not c/)
  assert.throws(() => readOrigin('http://x/', { relay: [RELAY], models: [], workers }), /offers no model/)
})

test('a page that came by https dials only wss', () => {
  const secure = '/dns4/relay.example/tcp/443/tls/ws/p2p/12D3KooWRelay'
  assert.deepEqual(readOrigin('https://relay.example/', { relay: [RELAY, secure], model: MODEL, workers }).relays, [secure])
  assert.throws(() => readOrigin('https://relay.example/', { relay: [RELAY], model: MODEL }), /wss/)
})

test('workers come from the relay, and only of a version that this SDK understands', () => {
  const document = { relay: [RELAY], model: MODEL, version: '9' }
  assert.equal(readOrigin('http://x', { ...document, workers }).workers.network, 'http://x/assets/network.js?v=1')
  assert.throws(() => readOrigin('http://x', { ...document, workers: { ...workers, api: 2 } }), /version 2 of the SDK.*fits its version 9/)
  assert.throws(() => readOrigin('http://x', document), /names no workers/)
})

for (const [what, document] of Object.entries({
  'no document': null,
  'no relay': { model: MODEL },
  'a relay that is no list': { relay: RELAY, model: MODEL },
  'addresses that are no texts': { relay: [7], model: MODEL },
  'no model': { relay: [RELAY], model: null },
  'half a model': { relay: [RELAY], model: { prefix: 'm' } }
})) {
  test(`${what} is a clear error`, () => {
    assert.throws(() => readOrigin('http://x/', document), /http:\/\/x\/ (names no relay|offers no model)/)
  })
}

test('blocks are checked against the model before anything is loaded', () => {
  for (const fine of ['', '0:4', '3:4', 'auto:1', 'auto:4']) checkBlocks(fine, 4)
  for (const wrong of ['abc', '4', '2:2', '3:1', '-1:2', '0:4:5']) assert.throws(() => { checkBlocks(wrong, 4) }, /START:END/, wrong)
  assert.throws(() => { checkBlocks('2:5', 4) }, /the model has 0:4/)
  for (const wrong of ['auto:0', 'auto:5']) assert.throws(() => { checkBlocks(wrong, 4) }, /the model has 4 blocks/, wrong)
})

test('it is seen whose clock is wrong, and by how much; who does not tell the time is believed to have ours', () => {
  const document = { relay: [RELAY], model: MODEL, workers }
  assert.equal(readOrigin('http://x', { ...document, time: 1000 }, 4600).ahead, 3600)
  assert.equal(readOrigin('http://x', { ...document, time: 4600 }, 1000).ahead, -3600)
  assert.equal(readOrigin('http://x', { ...document, time: 1000 }, 1009).ahead, 0)
  assert.equal(readOrigin('http://x', document, 1000).ahead, 0)
  assert.equal(readOrigin('http://x', { ...document, time: 'noon' }, 1000).ahead, 0)
})
