// RPCs between two tabs' switchboards, with streams and channels in memory: what each side is told, and when.

import assert from 'node:assert/strict'
import test from 'node:test'
import { Channel } from '../../web/bridge/channel.ts'
import { fault } from '../../web/bridge/faults.ts'
import { encodeCredit, encodeMessage } from '../../web/bridge/framing.ts'
import { type NetworkHost, type StreamHandler, Switchboard } from '../../web/bridge/rpc.ts'
import { FRAME_HEADER_SIZE, type NetworkToNode, type NodeToNetwork, STREAM_WINDOW } from '../../web/worker/messages.ts'
import { fromHex, hexOf, MemoryStream, settle, streamPair, toHex } from './stream_pair.ts'

const utf8 = new TextEncoder()

/** A host whose peers are other hosts in the same test. */
class MemoryHost implements NetworkHost {
  readonly handlers = new Map<string, StreamHandler>()
  readonly streams: MemoryStream[] = []
  closed = false
  listening = false
  credited = false
  readonly name: string
  readonly peers: Map<string, MemoryHost>

  constructor (name: string, peers: Map<string, MemoryHost>) {
    this.name = name
    this.peers = peers
    peers.set(name, this)
  }

  async serve (protocol: string, _kind: string, handler: StreamHandler): Promise<void> { this.handlers.set(protocol, handler) }

  async dial (peer: string, protocol: string): Promise<MemoryStream> {
    const callee = this.peers.get(peer)
    if (callee === undefined) throw fault('Unreachable', `no peer ${peer}`)
    const handler = callee.handlers.get(protocol)
    if (handler === undefined) throw fault('HandshakeError', `${peer} does not answer ${protocol}`)
    const [near, far] = streamPair()
    near.credited = far.credited = this.credited
    this.streams.push(near)
    callee.streams.push(far)
    void handler(far, this.name)
    return near
  }

  async open (peer: string, protocol: string): Promise<MemoryStream> { return await this.dial(peer, protocol) }

  decode (peer: string): Uint8Array { return utf8.encode(peer) }

  async listen (): Promise<void> {
    assert.ok(this.handlers.size > 0, 'handlers first')
    this.listening = true
  }

  async close (): Promise<void> { this.closed = true }
}

/** A switchboard and the node worker's end of its channel, as a script of messages. */
class Tab {
  readonly host: MemoryHost
  readonly switchboard: Switchboard
  readonly heard: NetworkToNode[] = []
  readonly #port = { onmessage: null as ((event: any) => void) | null, postMessage: (message: NetworkToNode) => { this.heard.push(structuredClone(message)) } }

  constructor (name: string, peers: Map<string, MemoryHost>) {
    this.host = new MemoryHost(name, peers)
    this.switchboard = new Switchboard(new Channel<NetworkToNode, NodeToNetwork>(this.#port), this.host)
  }

  async say (...messages: NodeToNetwork[]): Promise<void> {
    for (const data of messages) this.#port.onmessage?.({ data })
    await settle()
  }

  types (): string[] { return this.heard.map(message => message.type) }

  last<Type extends NetworkToNode['type']> (type: Type): Extract<NetworkToNode, { type: Type }> {
    const found = this.heard.findLast(message => message.type === type)
    assert.ok(found !== undefined, `no ${type} among ${this.types().join(' ')}`)
    return found as Extract<NetworkToNode, { type: Type }>
  }
}

function pairOfTabs (): [Tab, Tab] {
  const peers = new Map<string, MemoryHost>()
  return [new Tab('client', peers), new Tab('server', peers)]
}

async function openStream (client: Tab, server: Tab): Promise<number> {
  await server.say({ type: 'serve', protocol: 'A.rpc_stream', kind: 'stream' })
  await client.say({ type: 'open', id: 1, peer: 'server', protocol: 'A.rpc_stream' })
  assert.deepEqual(client.types(), ['result'])
  const { id, peer, protocol } = server.last('open')
  assert.deepEqual([id % 2, peer, protocol], [0, 'client', 'A.rpc_stream'])
  return id
}

test('listening waits until everything is served', async () => {
  const [, server] = pairOfTabs()
  await server.say({ type: 'serve', protocol: 'A.rpc_x', kind: 'unary' }, { type: 'listen', id: 1 })
  assert.deepEqual(server.heard, [{ type: 'result', id: 1 }])
  assert.ok(server.host.listening)
})

test('a unary call goes there and back, an error too', async () => {
  const [client, server] = pairOfTabs()
  await server.say({ type: 'serve', protocol: 'A.rpc_x', kind: 'unary' })
  await client.say({ type: 'call', id: 1, peer: 'server', protocol: 'A.rpc_x', body: fromHex('0102') })
  const call = server.last('call')
  assert.deepEqual([call.peer, toHex(call.body)], ['client', '0102'])
  await server.say({ type: 'result', id: call.id, body: fromHex('03') })
  assert.equal(toHex(client.last('result').body!), '03')
  await client.say({ type: 'call', id: 3, peer: 'server', protocol: 'A.rpc_x', body: fromHex('') })
  await server.say({ type: 'fault', id: server.last('call').id, error: 'RpcError', message: 'RequestError("no")' })
  assert.deepEqual(client.last('fault'), { type: 'fault', id: 3, error: 'RpcError', message: 'RequestError("no")' })
})

test('a caller who gives up cancels the callee, and hears nothing more', async () => {
  const [client, server] = pairOfTabs()
  await server.say({ type: 'serve', protocol: 'A.rpc_x', kind: 'unary' })
  await client.say({ type: 'call', id: 1, peer: 'server', protocol: 'A.rpc_x', body: fromHex('') })
  await client.say({ type: 'cancel', id: 1, reason: 'timeout' })
  assert.equal(server.last('cancel').id, server.last('call').id)
  await server.say({ type: 'result', id: server.last('call').id, body: fromHex('') })
  assert.deepEqual(client.types(), [])
})

test('who cannot be reached, and what is not served, are different errors', async () => {
  const [client] = pairOfTabs()
  await client.say({ type: 'call', id: 1, peer: 'nobody', protocol: 'A.rpc_x', body: fromHex('') })
  assert.equal(client.last('fault').error, 'Unreachable')
  await client.say({ type: 'open', id: 3, peer: 'server', protocol: 'A.rpc_x' })
  assert.deepEqual([client.last('fault').id, client.last('fault').error], [3, 'HandshakeError'])
})

test('a session: messages both ways, the end of the caller, the end of the callee', async () => {
  const [client, server] = pairOfTabs()
  const id = await openStream(client, server)
  await client.say({ type: 'data', id: 1, body: fromHex('0a') }, { type: 'data', id: 1, body: fromHex('') })
  await server.say({ type: 'data', id, body: fromHex('0b') })
  await client.say({ type: 'end', id: 1 })
  assert.deepEqual(server.types(), ['open', 'data', 'data', 'end'])
  await server.say({ type: 'data', id, body: fromHex('0c') }, { type: 'close', id })
  assert.deepEqual(client.types(), ['result', 'data', 'data', 'close'])
  assert.ok(client.host.streams[0]!.closed && server.host.streams[0]!.closed)
})

test("a callee that is done waits for the caller's end before it closes", async () => {
  const [client, server] = pairOfTabs()
  const id = await openStream(client, server)
  await server.say({ type: 'close', id })
  assert.equal(server.host.streams[0]!.closed, false)
  await client.say({ type: 'end', id: 1 })
  assert.equal(server.host.streams[0]!.closed, true)
})

test('a failing callee sends an error frame', async () => {
  const [client, server] = pairOfTabs()
  const id = await openStream(client, server)
  await server.say({ type: 'fault', id, error: 'RpcError', message: 'no such block' })
  assert.deepEqual(client.last('fault'), { type: 'fault', id: 1, error: 'RpcError', message: 'no such block' })
})

test('a caller that cancels or vanishes is one cancel at the callee', async () => {
  const [client, server] = pairOfTabs()
  await openStream(client, server)
  await client.say({ type: 'cancel', id: 1, reason: 'bored' })
  assert.deepEqual(server.types(), ['open', 'cancel'])
  assert.deepEqual(client.types(), ['result'], 'who cancels knows it')
})

test('bytes that are no frame are answered with an error frame and told as a cancel', async () => {
  const [client, server] = pairOfTabs()
  await openStream(client, server)
  client.host.streams[0]!.send(fromHex('0700000000000000000000'))
  await settle()
  assert.match(server.last('cancel').reason, /begins with 7/)
  assert.match(client.last('fault').message, /begins with 7/)
})

test('a node worker that does not read holds the caller back', async () => {
  const [client, server] = pairOfTabs()
  const id = await openStream(client, server)
  const size = 256 * 1024
  for (let index = 0; index < 12; index++) await client.say({ type: 'data', id: 1, body: new Uint8Array(size) })
  const arrived = server.heard.filter(message => message.type === 'data').length
  assert.equal(arrived, Math.ceil(STREAM_WINDOW / (size + FRAME_HEADER_SIZE)))
  await server.say({ type: 'credit', id, bytes: arrived * (size + FRAME_HEADER_SIZE) })
  assert.equal(server.heard.filter(message => message.type === 'data').length, 2 * arrived)
  assert.ok(client.last('credit').bytes > 0, 'what was sent is credited to the sender')
})

test('on a credited stream the far node worker holds the caller back, whatever the connection would take', async () => {
  const [client, server] = pairOfTabs()
  client.host.credited = true
  const id = await openStream(client, server)
  const size = 256 * 1024
  const allowed = Math.ceil(STREAM_WINDOW / (size + FRAME_HEADER_SIZE))
  for (let index = 0; index < 12; index++) await client.say({ type: 'data', id: 1, body: new Uint8Array(size) })
  const arrived = (): number => server.heard.filter(message => message.type === 'data').length
  assert.deepEqual([arrived(), client.host.streams[0]!.sent.length], [allowed, allowed])
  await server.say({ type: 'credit', id, bytes: allowed * (size + FRAME_HEADER_SIZE) })
  assert.equal(arrived(), 2 * allowed)
  await server.say({ type: 'data', id, body: fromHex('05') })
  assert.equal(toHex(client.last('data').body), '05', 'the other way is not held back')
  await client.say({ type: 'cancel', id: 1, reason: 'enough' })
  assert.equal(server.last('cancel').id, id)
})

test('a credit on a stream that has none is a broken protocol', async () => {
  const [client, server] = pairOfTabs()
  await openStream(client, server)
  client.host.streams[0]!.send(encodeCredit(5))
  await settle()
  assert.match(server.last('cancel').reason, /begins with 2/)
})

test('goodbye: error frames at once, then the farewell call', async () => {
  const [client, server] = pairOfTabs()
  const id = await openStream(client, server)
  await client.say({ type: 'serve', protocol: 'R.rpc_announce', kind: 'unary' })
  await server.say({ type: 'farewell', peer: 'client', protocol: 'R.rpc_announce', body: fromHex('0ff1') })
  server.switchboard.bye('the tab was closed')
  const frame = hexOf(server.host.streams[0]!)
  assert.ok(frame.startsWith('01'), 'the frame is sent before bye() returns')
  await settle()
  assert.deepEqual([client.last('fault').error, client.last('fault').message], ['RpcError', 'the tab was closed'])
  assert.equal(toHex(client.last('call').body), '0ff1')
  await server.say({ type: 'data', id, body: fromHex('01') })
  assert.equal(hexOf(server.host.streams[0]!), frame, 'nothing follows the error frame')
  assert.equal(server.host.streams[0]!.aborted, null, 'a reset would take it back')
})

test('after the goodbye nothing is announced again, and the connections end', async () => {
  const [client, server] = pairOfTabs()
  await client.say({ type: 'serve', protocol: 'R.rpc_announce', kind: 'unary' })
  await server.say({ type: 'farewell', peer: 'client', protocol: 'R.rpc_announce', body: fromHex('0ff1') })
  server.switchboard.bye('the tab was closed')
  await server.say({ type: 'call', id: 7, peer: 'client', protocol: 'R.rpc_announce', body: fromHex('0b') })
  assert.deepEqual([server.last('fault').id, server.last('fault').error], [7, 'Unreachable'])
  await settle()
  assert.equal(toHex(client.last('call').body), '0ff1')
  assert.ok(!server.host.closed, 'the farewell is not answered yet')
  await client.say({ type: 'result', id: client.last('call').id })
  await settle()
  assert.ok(server.host.closed)
})

test('an answer under way when the tab goes does not reset the stream', async () => {
  const [client, server] = pairOfTabs()
  const id = await openStream(client, server)
  const said = server.say({ type: 'data', id, body: fromHex('01') }) // its turn comes after the goodbye
  server.switchboard.bye('the tab was closed')
  await said
  assert.equal(server.host.streams[0]!.aborted, null)
  assert.equal(client.last('fault').message, 'the tab was closed')
})

test('leaving in order closes the host and makes no farewell call', async () => {
  const [client, server] = pairOfTabs()
  await client.say({ type: 'serve', protocol: 'R.rpc_announce', kind: 'unary' })
  await server.say({ type: 'farewell', peer: 'client', protocol: 'R.rpc_announce', body: fromHex('00') })
  await server.say({ type: 'leave', id: 5, reason: 'done' })
  assert.deepEqual(server.heard, [{ type: 'result', id: 5 }])
  assert.ok(server.host.closed)
  assert.deepEqual(client.types(), [])
})

test('leaving in order waits until its callers have heard, and no longer', async () => {
  const [client, server] = pairOfTabs()
  await openStream(client, server)
  await server.say({ type: 'serve', protocol: 'A.rpc_x', kind: 'unary' })
  await client.say({ type: 'call', id: 1, peer: 'server', protocol: 'A.rpc_x', body: fromHex('') })
  const deaf = await client.host.dial('server', 'A.rpc_stream')
  await settle()
  await server.say({ type: 'leave', id: 5, reason: 'done' })
  assert.deepEqual(client.heard.filter(({ type }) => type === 'fault').length, 2)
  assert.ok(!server.host.closed, 'one has not')
  await deaf.close()
  await settle()
  assert.ok(server.host.closed)
})

test('a request that is too long is cut off, its reader is not', async () => {
  const [client, server] = pairOfTabs()
  await server.say({ type: 'serve', protocol: 'A.rpc_x', kind: 'unary' })
  const stream = await client.host.dial('server', 'A.rpc_x')
  stream.send(fromHex('81808002'))
  await settle()
  assert.match(server.host.streams[0]!.aborted?.message ?? '', /unary message/)
  assert.deepEqual(server.types(), [])
})

test('an answer too long for the envelope becomes an error of the callee', async () => {
  const [client, server] = pairOfTabs()
  await server.say({ type: 'serve', protocol: 'A.rpc_x', kind: 'unary' })
  await client.say({ type: 'call', id: 1, peer: 'server', protocol: 'A.rpc_x', body: fromHex('') })
  await server.say({ type: 'result', id: server.last('call').id, body: new Uint8Array(5 << 20) })
  assert.match(client.last('fault').message, /at most 4194304/)
})

test('a frame after the error frame of a callee is not read', async () => {
  const [client, server] = pairOfTabs()
  const id = await openStream(client, server)
  await server.say({ type: 'fault', id, error: 'RpcError', message: 'over' })
  server.host.streams[0]!.other?.arrive(encodeMessage(fromHex('00')))
  await settle()
  assert.deepEqual(client.types(), ['result', 'fault'])
})

test('too many streams are refused with a reason, and there is room again when one ends', async () => {
  const [client, server] = pairOfTabs()
  const first = await openStream(client, server)
  await client.say(...Array.from({ length: 511 }, (_, index): NodeToNetwork => ({ type: 'open', id: 3 + 2 * index, peer: 'server', protocol: 'A.rpc_stream' })))
  assert.equal(client.heard.filter(message => message.type === 'fault').length, 0)
  await client.say({ type: 'open', id: 9001, peer: 'server', protocol: 'A.rpc_stream' })
  assert.match(client.last('fault').message, /try another/)
  await server.say({ type: 'fault', id: first, error: 'RpcError', message: 'over' })
  await client.say({ type: 'open', id: 9003, peer: 'server', protocol: 'A.rpc_stream' })
  assert.deepEqual(client.last('result').id, 9003)
})
