// The SDK's client before its workers: what is asked of them, what their words become, and that every end is told.

import assert from 'node:assert/strict'
import { afterEach, beforeEach, test } from 'node:test'
import type { Client, ClientEvent, ClientOptions } from '../../web/sdk/client.ts'

class FakeWorker {
  static made: FakeWorker[] = []
  readonly url: string
  readonly posted: any[] = []
  ended = false
  onmessage: (event: { data: unknown }) => void = () => {}
  onerror: (event: { message: string }) => void = () => {}

  constructor (url: string) {
    this.url = new URL(url).pathname
    FakeWorker.made.push(this)
  }

  postMessage (message: unknown): void { this.posted.push(message) }
  terminate (): void { this.ended = true }
  say (message: object): void { this.onmessage({ data: message }) }
}

const ORIGIN = {
  relay: ['/ip4/127.0.0.1/tcp/1/ws/p2p/QmRelay'],
  version: '0',
  workers: { api: 1, network: '/network', node: '/node', client: '/client' },
  model: { prefix: 'tiny', num_blocks: 3, manifest: '/m', files: '/f/', text: { url: '/t', size: 1, integrity: '' } }
}
const HI = { messages: [{ role: 'user', content: 'Hi' }] }
const HOP = { peer: 'A', start: 0, end: 3 }

Object.assign(globalThis, { Worker: FakeWorker, location: { origin: 'http://relay' } })
const sdk = await import('../../web/sdk/client.ts')
const clients: Client[] = []

function createClient (options: ClientOptions): Client {
  const client = sdk.createClient(options)
  clients.push(client)
  return client
}

let up = true
globalThis.fetch = async () => {
  if (!up) throw new TypeError('no network')
  return new Response(JSON.stringify(ORIGIN))
}

// An open client holds a port open, and that this process.
afterEach(async () => {
  const closing = Promise.all(clients.splice(0).map(async client => { await client.close() }))
  for (const worker of FakeWorker.made) worker.say({ type: 'stopped' })
  await closing
})

interface Scene { client: Client, events: ClientEvent[], network: FakeWorker, worker: FakeWorker }

/** A client whose workers have said that they are ready. */
async function ready (options: Partial<ClientOptions> = {}): Promise<Scene> {
  const events: ClientEvent[] = []
  const client = createClient({ relay: 'http://relay', onEvent: event => { events.push(event) }, ...options })
  const started = client.start()
  while (FakeWorker.made.length < 2) await new Promise(resolve => setImmediate(resolve))
  const [network, worker] = FakeWorker.made as [FakeWorker, FakeWorker]
  network.say({ type: 'identity', peer_id: 'me' })
  worker.say({ type: 'client-state', state: 'ready' })
  await started
  return { client, events, network, worker }
}

/** The order that the client worker was sent last. */
async function ordered (worker: FakeWorker, count = 1): Promise<{ id: number }> {
  const orders = (): any[] => worker.posted.filter(({ type }) => type === 'complete')
  while (orders().length < count) await new Promise(resolve => setImmediate(resolve))
  return orders().at(-1)
}

beforeEach(() => {
  FakeWorker.made = []
  up = true
})

test('nothing loads before it is wanted, and then once', async () => {
  const client = createClient({ relay: 'http://relay' })
  assert.deepEqual(client.status(), { state: 'idle', hops: [], failovers: 0 })
  await new Promise(resolve => setImmediate(resolve))
  assert.equal(FakeWorker.made.length, 0)
  const { network, worker, events } = await ready()
  assert.deepEqual([network.url, worker.url], ['/network', '/client'])
  assert.equal(network.posted[0].identity, 'new')
  assert.deepEqual(network.posted[0].relays, ORIGIN.relay)
  assert.equal(worker.posted[0].config.model.text.url, 'http://relay/t')
  assert.equal(worker.posted[0].config.push, 'auto')
  assert.deepEqual(events, [{ event: 'state', state: 'loading' }, { event: 'state', state: 'ready' }])
})

test('an answer, its chain, and what took the place of a lost hop', async () => {
  const { client, events, network, worker } = await ready()
  const chunks = await client.chat.completions.create({ ...HI, stream: true })
  const { id } = await ordered(worker)
  worker.say({ type: 'chain', id, hops: [HOP] })
  network.say({ type: 'peers', peers: [{ peer: 'B', kind: 'webrtc', rtt_ms: 3, bytes_in: 1, bytes_out: 1 }] })
  worker.say({ type: 'piece', id, text: 'a', tokens: 1 })
  worker.say({ type: 'chain', id, hops: [{ ...HOP, peer: 'B' }] })
  worker.say({ type: 'finished', id, reason: 'stop', prompt_tokens: 1, completion_tokens: 3, first_token_ms: 5, decoding_ms: 100 })
  let text = ''
  for await (const chunk of chunks) text += chunk.choices[0].delta.content ?? ''
  assert.equal(text, 'a')
  const { hops, failovers, tokens_per_second: rate, peer_id: peer } = client.status()
  assert.deepEqual([hops[0]?.connection?.kind, failovers, rate, peer], ['webrtc', 1, 20, 'me'])
  const chains = events.filter(event => event.event === 'chain')
  assert.deepEqual(chains.map(({ lost, anew }) => [lost, anew]), [[[], false], [['A'], true]])
})

test('a chain that was lost for good is no longer told, whatever is heard of its peers later', async () => {
  const { client, network, worker } = await ready()
  const answer = client.chat.completions.create(HI)
  const { id } = await ordered(worker)
  worker.say({ type: 'chain', id, hops: [HOP] })
  const beside = client.chat.completions.create(HI)
  const { id: other } = await ordered(worker, 2)
  worker.say({ type: 'refused', id, error: 'Unreachable', message: 'nobody holds 0:3' })
  await assert.rejects(answer, /nobody holds/)
  network.say({ type: 'peers', peers: [{ peer: HOP.peer, kind: 'webrtc', rtt_ms: 3, bytes_in: 1, bytes_out: 1 }] })
  assert.deepEqual(client.status().hops, [])
  const chain = [{ ...HOP, peer: 'B' }]
  worker.say({ type: 'chain', id: other, hops: chain })
  worker.say({ type: 'finished', id: other, reason: 'stop', prompt_tokens: 1, completion_tokens: 3, first_token_ms: 5, decoding_ms: 100 })
  await beside
  assert.deepEqual(client.status().hops, chain)
})

test('aborting cancels at the worker', async () => {
  const { client, worker } = await ready()
  const control = new AbortController()
  const answer = client.chat.completions.create({ ...HI, signal: control.signal })
  const { id } = await ordered(worker)
  control.abort(new Error('enough'))
  await assert.rejects(answer, /enough/)
  assert.deepEqual(worker.posted.at(-1), { type: 'cancel', id, reason: 'the page gave up' })
  await assert.rejects(client.chat.completions.create({ ...HI, signal: control.signal }), /enough/)
})

test('a refusal is the caller\'s, the client goes on', async () => {
  const { client, worker } = await ready()
  const refused = client.chat.completions.create(HI)
  worker.say({ type: 'refused', id: (await ordered(worker)).id, error: 'Unreachable', message: 'nobody holds 0:3' })
  await assert.rejects(refused, { name: 'CompletionError', type: 'Unreachable', message: 'nobody holds 0:3' })
  assert.equal(client.status().state, 'ready')
})

test('a worker that breaks ends every answer, and the next one loads anew', async () => {
  const { client, network, worker, events } = await ready()
  const answer = client.chat.completions.create(HI)
  await ordered(worker)
  network.onerror({ message: 'out of memory' })
  await assert.rejects(answer, /network worker broke: out of memory/)
  assert.ok(network.ended && worker.ended)
  assert.deepEqual(events.at(-1), { event: 'state', state: 'error', message: 'the network worker broke: out of memory', code: 'LocalError' })
  FakeWorker.made = []
  void client.chat.completions.create(HI).catch(() => {})
  while (FakeWorker.made.length < 2) await new Promise(resolve => setImmediate(resolve))
})

test('an origin that does not answer is told once, and may be asked again', async () => {
  up = false
  const events: ClientEvent[] = []
  const client = createClient({ relay: 'http://relay', onEvent: event => { events.push(event) } })
  await assert.rejects(client.chat.completions.create(HI), /does not answer/)
  assert.deepEqual(events.map(event => event.event === 'state' ? event.state : event.event), ['loading', 'error'])
  up = true
  void client.start().catch(() => {})
  while (FakeWorker.made.length < 2) await new Promise(resolve => setImmediate(resolve))
})

test('closing waits for the sessions to end, and nothing comes after it', async () => {
  const { client, worker, network, events } = await ready()
  const answer = client.chat.completions.create(HI)
  await ordered(worker)
  const closing = client.close()
  assert.equal(worker.posted.at(-1).type, 'stop-client')
  assert.equal(worker.ended, false)
  worker.say({ type: 'stopped' })
  await closing
  await assert.rejects(answer, /was closed/)
  assert.ok(network.ended && worker.ended)
  await assert.rejects(client.start(), /was closed/)
  assert.deepEqual(events.at(-1), { event: 'state', state: 'closed' })
})

test('closing is cut short by its signal', async () => {
  const { client, network, worker } = await ready()
  const control = new AbortController()
  const closing = client.close({ signal: control.signal })
  assert.equal(worker.ended, false)
  control.abort()
  await closing
  assert.ok(network.ended && worker.ended)
})

test('closing while it loads ends the loading', async () => {
  const client = createClient({ relay: 'http://relay' })
  const started = client.start()
  while (FakeWorker.made.length < 2) await new Promise(resolve => setImmediate(resolve))
  await client.close()
  await assert.rejects(started, /was closed/)
  assert.equal(client.status().state, 'closed')
})
