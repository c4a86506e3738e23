// The SDK's node before its workers: states, limits, turns and ends, each told once and in order.

import assert from 'node:assert/strict'
import { afterEach, beforeEach, test } from 'node:test'
import type { KwaaiNode, NodeOptions } from '../../web/sdk/node.ts'

class FakeWorker {
  static made: FakeWorker[] = []
  readonly posted: any[] = []
  ended = false
  onmessage: (event: { data: unknown }) => void = () => {}
  onerror: (event: { message: string }) => void = () => {}

  constructor () { FakeWorker.made.push(this) }
  postMessage (message: unknown): void { this.posted.push(message) }
  terminate (): void { this.ended = true }
  say (message: object): void { this.onmessage({ data: message }) }
}

const ORIGIN = { relay: ['/ip4/127.0.0.1/tcp/1/ws/p2p/QmRelay'], version: '0', workers: { api: 1, network: '/network', node: '/node', client: '/client' }, model: { prefix: 'tiny', num_blocks: 3, manifest: '/m', files: '/f/' } }
const battery = Object.assign(new EventTarget(), { charging: true })
let asked = async (): Promise<typeof battery> => battery
const page = Object.assign(new EventTarget(), { hidden: false, title: 'a page' })

/** Web Locks in one process. */
class FakeLocks {
  #tail: Promise<unknown> = Promise.resolve()
  #held = false

  async request (_: string, { ifAvailable, signal }: LockOptions, hold: (lock: object | null) => Promise<void>): Promise<void> {
    if (ifAvailable === true && this.#held) return await hold(null)
    const before = this.#tail
    const turn = before.then(async () => {
      if (signal?.aborted === true) return
      this.#held = true
      await hold({})
      this.#held = false
    })
    this.#tail = turn
    await new Promise((resolve, reject) => {
      signal?.addEventListener('abort', () => { reject(signal.reason as Error) })
      turn.then(resolve, reject)
    })
  }
}

Object.defineProperty(globalThis, 'navigator', { value: { hardwareConcurrency: 2, locks: new FakeLocks(), storage: { getDirectory () {} }, getBattery: async () => await asked() } })
Object.assign(globalThis, {
  Worker: FakeWorker, location: { origin: 'http://relay' }, isSecureContext: true, crossOriginIsolated: false, document: page,
  addEventListener: page.addEventListener.bind(page), fetch: async () => new Response(JSON.stringify(ORIGIN))
})
const { createNode } = await import('../../web/sdk/node.ts')

interface Scene { node: KwaaiNode, states: string[], network: () => FakeWorker, worker: () => FakeWorker }
const scenes: Scene[] = []

function scene (options: Partial<NodeOptions> = {}): Scene {
  const node = createNode({ relay: 'http://relay', backend: 'wasm', ...options })
  const states: string[] = []
  node.addEventListener('state', ({ detail: { state } }) => { if (states.at(-1) !== state) states.push(state) })
  const made = { node, states, network: () => FakeWorker.made[0]!, worker: () => FakeWorker.made[1]! }
  scenes.push(made)
  return made
}

async function until (condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise(resolve => setImmediate(resolve))
}

const state = (name: string, more = {}): object => ({ type: 'state', state: name, blocks: [0, 3], backend: 'wasm', weights: 'q4', message: '', ...more })

/** A node that serves. */
async function serving (options: Partial<NodeOptions> = {}): Promise<Scene> {
  const made = scene(options)
  const started = made.node.start()
  await until(() => FakeWorker.made.length === 2)
  made.network().say({ type: 'identity', peer_id: 'me' })
  for (const name of ['starting', 'reserving', 'joining', 'online']) made.worker().say(state(name))
  await started
  return made
}

const limitsOf = (worker: FakeWorker): any => worker.posted.filter(({ type }) => type === 'limits').at(-1)

beforeEach(() => {
  FakeWorker.made = []
  battery.charging = true
  asked = async () => battery
})

afterEach(async () => {
  await Promise.all(scenes.splice(0).map(async ({ node }) => {
    const stopped = node.stop()
    for (const worker of FakeWorker.made) worker.say({ type: 'stopped' })
    await stopped
  }))
})

test('nothing runs before it is started, and what runs says where it stands', async () => {
  const { node, states, network } = scene()
  assert.deepEqual(node.status(), { state: 'idle', work: { sessions: 0, tokensDone: 0 }, peers: [], limits: {} })
  assert.equal(FakeWorker.made.length, 0)
  const started = node.start()
  await assert.rejects(node.start(), /preflight already/)
  await until(() => FakeWorker.made.length === 2)
  assert.equal(network().posted[0].identity, 'kept')
  FakeWorker.made[1]!.say(state('starting'))
  FakeWorker.made[1]!.say(state('online'))
  await started
  assert.deepEqual(states, ['preflight', 'loading', 'serving'])
  assert.deepEqual(node.status().blocks, [0, 3])
  assert.ok(node.status().since instanceof Date)
})

test('progress, peers, work and receipts are events of their own', async () => {
  const progress: unknown[] = []
  const { node, network, worker } = await serving({ onProgress: each => { progress.push(each) } })
  const heard: unknown[] = []
  for (const name of ['peer', 'work', 'receipt'] as const) node.addEventListener(name, ({ detail }) => { heard.push(detail) })
  const report = (peer: string): object => ({ peer, kind: 'webrtc', rtt_ms: 2, bytes_in: 1, bytes_out: 3 })
  network().say({ type: 'peers', peers: [report('A')] })
  network().say({ type: 'peers', peers: [report('B')] })
  worker().say({ type: 'serving', sessions: 1, tokens_done: 7, leaving_in: 0 })
  const receipt = { kind: 'session', peer: 'B', model: 'tiny', blocks: [0, 3], tokens: 7 }
  worker().say({ type: 'receipt', ...receipt, bytes_in: 10, bytes_out: 20, started: 1.5, ended: 3, error: '', code: '' })
  worker().say({ type: 'receipt', ...receipt, bytes_in: 10, bytes_out: 20, started: 1.5, ended: 3, error: 'gone', code: 'StreamReset' })
  const peer = (id: string): object => ({ id, kind: 'webrtc', rttMs: 2, bytesIn: 1, bytesOut: 3 })
  const whole = { ...receipt, bytesIn: 10, bytesOut: 20, started: new Date(1500), ended: new Date(3000) }
  assert.deepEqual(heard.splice(3), [whole, { ...whole, error: 'gone', code: 'StreamReset' }])
  assert.deepEqual(heard, [
    { peers: [peer('A')], joined: ['A'], left: [] }, { peers: [peer('B')], joined: ['B'], left: ['A'] }, { sessions: 1, tokensDone: 7 }
  ])
  assert.deepEqual(node.status().work, { sessions: 1, tokensDone: 7 })
  assert.deepEqual(progress, [])
  worker().say({ type: 'progress', stage: 'weights', done: 1, total: 2, cached: 0, rate: 5, seconds_left: 1 })
  assert.deepEqual(progress, [{ stage: 'weights', done: 1, total: 2, cached: 0, rate: 5, secondsLeft: 1 }])
})

test('pause, resume and limits reach the node at once; what makes no sense is refused', async () => {
  const { node, worker } = await serving({ limits: { duty: 0.5 } })
  await until(() => limitsOf(worker()) !== undefined)
  assert.deepEqual([limitsOf(worker()).duty, limitsOf(worker()).paused], [0.5, false])
  node.pause()
  assert.equal(limitsOf(worker()).paused, true)
  worker().say(state('paused', { reasons: ['asked'] }))
  assert.deepEqual([node.status().state, node.status().reasons], ['paused', ['asked']])
  node.resume()
  node.setLimits({ hours: [{ from: '22:00', to: '06:30' }], memoryBytes: 1e9 })
  const { paused, hours, memory, duty } = limitsOf(worker())
  assert.deepEqual([paused, hours, memory, duty], [false, [[1320, 390]], 1e9, 0.5])
  battery.charging = false
  battery.dispatchEvent(new Event('chargingchange'))
  assert.equal(limitsOf(worker()).on_battery, true)
  for (const wrong of [{ duty: 0 }, { memoryBytes: 0.5 }, { hours: [{ from: '8', to: '9' }] }, { onBattery: 'stop' as 'pause' }]) {
    assert.throws(() => { node.setLimits(wrong) }, TypeError)
  }
})

test('on battery nothing is even loaded, until it charges', async () => {
  battery.charging = false
  const { node, states } = scene()
  await node.start()
  assert.deepEqual([node.status().state, node.status().reasons, FakeWorker.made.length], ['paused', ['battery'], 0])
  node.setLimits({ onBattery: 'continue' })
  await until(() => FakeWorker.made.length === 2)
  assert.deepEqual(states, ['preflight', 'paused', 'preflight', 'loading'])
})

test('a battery that does not answer holds nothing up, and counts from its answer on', async () => {
  let answer: (one: typeof battery) => void = () => {}
  asked = async () => await new Promise(resolve => { answer = resolve })
  battery.charging = false
  const { worker } = await serving()
  assert.equal(limitsOf(worker()).on_battery, false)
  answer(battery)
  await until(() => limitsOf(worker()).on_battery === true)
})

test('a graphics adapter that does not answer is none', async t => {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  let asked = (): void => {}
  const asking = new Promise<void>(resolve => { asked = resolve })
  Object.assign(navigator, { gpu: { requestAdapter: async () => { asked(); return await new Promise(() => {}) } } })
  const { node, worker } = scene()
  const started = node.start()
  await asking
  t.mock.timers.tick(10_000)
  await until(() => FakeWorker.made.length === 2)
  Reflect.deleteProperty(navigator, 'gpu')
  assert.equal(worker().posted[0].config.backend, 'wasm')
  worker().say(state('online'))
  await started
})

test('a second tab says who serves and takes over when that ends', async () => {
  const first = await serving()
  const second = scene()
  await second.node.start()
  await until(() => second.node.status().elsewhere?.title === 'a page')
  assert.equal(second.node.status().elsewhere?.peerId, 'me')
  const stopping = first.node.stop()
  first.worker().say({ type: 'stopped' })
  await stopping
  await until(() => FakeWorker.made.length === 4)
  assert.deepEqual(second.states, ['preflight', 'elsewhere', 'preflight', 'loading'])
})

test('a tab that waits can be stopped', async () => {
  await serving()
  const second = scene()
  await second.node.start()
  await second.node.stop()
  assert.equal(second.node.status().state, 'stopped')
})

test('finishing drains, and stopping hurries it', async () => {
  const { node, states, worker } = await serving()
  const finishing = node.finish({ within: 20 })
  assert.deepEqual(worker().posted.at(-1), { type: 'stop-node', drain: 20 })
  worker().say(state('draining'))
  worker().say({ type: 'serving', sessions: 1, tokens_done: 7, leaving_in: 19 })
  assert.equal(node.status().leavingIn, 19)
  const stopping = node.stop()
  assert.deepEqual(worker().posted.at(-1), { type: 'stop-node', drain: 0 })
  worker().say({ type: 'stopped' })
  await Promise.all([finishing, stopping])
  assert.deepEqual(states.slice(-2), ['draining', 'stopped'])
  assert.ok(worker().ended)
})

test('finishing is hurried by its signal', async () => {
  const { node, worker } = await serving()
  const hurry = new AbortController()
  const finished = node.finish({ within: 60, signal: hurry.signal })
  const drains = (): number[] => worker().posted.filter(({ type }) => type === 'stop-node').map(({ drain }) => drain)
  assert.deepEqual(drains(), [60])
  hurry.abort()
  assert.deepEqual(drains(), [60, 0])
  worker().say({ type: 'stopped' })
  await finished
  assert.equal(node.status().state, 'stopped')
})

test('stopping is cut short by its signal, before or meanwhile', async () => {
  for (const early of [true, false]) {
    const { node } = await serving()
    const control = new AbortController()
    if (early) control.abort()
    const stopped = node.stop({ signal: control.signal })
    control.abort()
    await stopped
    assert.ok(FakeWorker.made.some(({ ended }) => ended))
    assert.equal(node.status().state, 'stopped')
    FakeWorker.made = []
  }
})

test('a node that goes out of scope leaves', async () => {
  const { node, worker } = await serving()
  const left = node[Symbol.asyncDispose]()
  worker().say({ type: 'stopped' })
  await left
  assert.equal(node.status().state, 'stopped')
})

test('a failure is a state, an event and a rejection, and the node may be started again', async () => {
  const { node, states, worker } = scene()
  const errors: string[] = []
  node.addEventListener('error', ({ detail }) => { errors.push(detail.message) })
  const started = node.start()
  await until(() => FakeWorker.made.length === 2)
  worker().say({ type: 'failed', error: 'Error', message: 'no weights' })
  await assert.rejects(started, /no weights/)
  assert.deepEqual([states.at(-1), errors, node.status().message], ['failed', ['no weights'], 'no weights'])
  void node.start().catch(() => {})
  await until(() => FakeWorker.made.length === 4)
})

test('a start can be aborted, by its own signal and by the node\'s', async () => {
  for (const own of [true, false]) {
    const control = new AbortController()
    const { node } = scene(own ? {} : { signal: control.signal })
    const started = node.start(own ? { signal: control.signal } : {})
    control.abort()
    await assert.rejects(started, { name: 'AbortError' })
    await until(() => node.status().state === 'stopped')
  }
})

for (const [phase, began] of [['starting', false], ['loading', false], ['online', true], ['paused', true], ['draining', false]] as const) {
  test(`the node's signal ends it while it is ${phase}`, async () => {
    const control = new AbortController()
    const { node, worker } = scene({ signal: control.signal })
    const started = node.start().then(() => true, ({ name }) => name)
    await until(() => FakeWorker.made.length === 2)
    worker().say(state(phase, { reasons: ['asked'] }))
    control.abort()
    if (phase !== 'starting') { // there is something to leave
      assert.deepEqual(worker().posted.at(-1), { type: 'stop-node', drain: 0 })
      worker().say({ type: 'stopped' })
    }
    await until(() => node.status().state === 'stopped')
    assert.equal(await started, began || 'AbortError')
    assert.ok(worker().ended)
  })
}

test('the signal of a tab that waits ends its waiting', async () => {
  const first = await serving()
  const control = new AbortController()
  const { node } = scene({ signal: control.signal })
  await node.start()
  control.abort()
  await until(() => node.status().state === 'stopped')
  const stopping = first.node.stop()
  first.worker().say({ type: 'stopped' })
  await stopping
  assert.equal(FakeWorker.made.length, 2, 'it does not take over')
})

test('a model that the relay does not offer is named', async () => {
  await assert.rejects(scene({ model: 'huge' }).node.start(), /offers tiny, not huge/)
})

const LOOK = 5000 // ms
const [GOES_ON, IS_OVER] = [34, 36] // looks without a word

test('a start that stands still is given up at any stage, and says at which', async t => {
  t.mock.timers.enable({ apis: ['setInterval'] })
  const stages: Array<[string, object[]]> = [
    ['starting', []],
    ['python', [{ type: 'progress', stage: 'python', done: 1, total: 2, cached: 0, rate: 0 }]],
    ['reserving', [state('starting'), state('reserving')]],
    ['weights', [state('joining'), { type: 'progress', stage: 'weights', done: 1, total: 2, cached: 0, rate: 0 }]]
  ]
  for (const [waits, words] of stages) {
    FakeWorker.made = []
    const { node, states, network, worker } = scene()
    const started = node.start()
    await until(() => FakeWorker.made.length === 2)
    for (const word of words) {
      t.mock.timers.tick(GOES_ON * LOOK)
      worker().say(word)
    }
    t.mock.timers.tick(GOES_ON * LOOK)
    network().say({ type: 'peers', peers: [] }) // lives on, which says nothing of what is waited for
    assert.notEqual(states.at(-1), 'failed')
    t.mock.timers.tick((IS_OVER - GOES_ON) * LOOK)
    await assert.rejects(started, { code: 'stalled', values: { waits } })
    assert.deepEqual([states.at(-1), worker().ended], ['failed', true])
  }
})

test('a start whose page never answers is given up, too; who has served is not', async t => {
  t.mock.timers.enable({ apis: ['setInterval'] })
  const { node } = await serving()
  FakeWorker.made[1]!.say(state('joining'))
  t.mock.timers.tick(2 * IS_OVER * LOOK)
  assert.equal(node.status().state, 'loading')
  FakeWorker.made[1]!.say(state('online'))
  const silent = { relay: 'http://relay', backend: 'wasm' } as const
  const fetched = globalThis.fetch
  globalThis.fetch = async () => await new Promise(() => {})
  const stopping = node.stop()
  FakeWorker.made[1]!.say({ type: 'stopped' })
  await stopping
  const other = createNode(silent)
  const started = other.start()
  await until(() => other.status().state === 'preflight')
  await new Promise(resolve => setImmediate(resolve))
  t.mock.timers.tick(IS_OVER * LOOK)
  globalThis.fetch = fetched
  await assert.rejects(started, { code: 'stalled' })
  void other.start().catch(() => {})
  await until(() => FakeWorker.made.length === 4)
  scenes.push({ node: other, states: [], network: () => FakeWorker.made[2]!, worker: () => FakeWorker.made[3]! })
})
