// Load for a circuit relay: js-libp2p peers with the tab's settings, on both ends of its circuits.
// node relay_load.mjs RELAY_MULTIADDR, then one JSON command a line on stdin, one JSON answer a line on stdout:
//   {"do":"transfer","bytes":N}  N bytes each way through one circuit      -> {"seconds":S}
//   {"do":"echo","rounds":N}     messages of a step's size through it      -> {"milliseconds":MEDIAN}
//   {"do":"connect","peers":N}   as many more peers take and keep a slot   -> {"seconds":S}
// Rule of the file: it knows nothing of the relay beside its address, so every relay gets the same load.

import { createInterface } from 'node:readline'
import { circuitRelayTransport } from '@libp2p/circuit-relay-v2'
import { identify } from '@libp2p/identify'
import { noise } from '@libp2p/noise'
import { webSockets } from '@libp2p/websockets'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { sparing } from '../../web/bridge/muxer.ts'
import { gatherSockets } from '../../web/bridge/sockets.ts'

const SINK = '/bench/sink/1.0.0'
const SOURCE = '/bench/source/1.0.0'
const ECHO = '/bench/echo/1.0.0'
const OPTIONS = { runOnLimitedConnection: true, maxInboundStreams: 64, maxOutboundStreams: 64 }
const WINDOW = 1024 * 1024
const CHUNK = new Uint8Array(65536)
const STEP = 1002 // bytes of a decode step of a small model, as petals sends it
const AT_ONCE = 8 // connections being set up

async function createPeer () {
  let reserve = null
  const circuits = circuitRelayTransport({ reservationCompletionTimeout: 15_000 })
  const node = await createLibp2p({
    transports: [
      webSockets(),
      components => {
        reserve = address => components.transportManager.listen([multiaddr(`${address}/p2p-circuit`)])
        return circuits(components)
      }
    ],
    connectionEncrypters: [noise()],
    streamMuxers: [sparing(yamux({ streamOptions: { maxStreamWindowSize: WINDOW } }))],
    connectionMonitor: { enabled: false },
    connectionManager: { dialTimeout: 30_000, maxConnections: 4096 },
    connectionGater: { denyDialMultiaddr: () => false },
    services: { identify: identify() }
  })
  return { node, reserve }
}

/** Chunks of a stream, one after another; its end is null. */
function reading (stream) {
  const chunks = []
  let ended = false
  let failure = null
  let wake = () => {}
  stream.addEventListener('message', ({ data }) => { chunks.push(data); wake() })
  stream.addEventListener('remoteCloseWrite', () => { ended = true; wake() })
  stream.addEventListener('close', ({ error }) => { ended = true; failure = error ?? null; wake() })
  return async () => {
    while (chunks.length === 0) {
      if (failure !== null) throw failure
      if (ended) return null
      await new Promise(resolve => { wake = resolve })
    }
    return chunks.shift()
  }
}

async function send (stream, data) {
  if (!stream.send(data)) await stream.onDrain()
}

async function sendBytes (stream, size) {
  for (let left = size; left > 0; left -= CHUNK.length) await send(stream, CHUNK.subarray(0, left))
}

async function count (next, size) {
  let received = 0
  while (received < size) {
    const chunk = await next()
    if (chunk === null) throw new Error(`the stream ended after ${received} of ${size} bytes`)
    received += chunk.byteLength
  }
}

/** The first message on a stream says how many bytes it is about. */
const asked = chunk => Number(new TextDecoder().decode(chunk.subarray()))
const say = number => new TextEncoder().encode(String(number))

async function serve (node) {
  const handle = async (protocol, answer) => {
    await node.handle(protocol, async stream => {
      try {
        await answer(stream, reading(stream))
        await stream.close()
      } catch (error) { stream.abort(error) }
    }, OPTIONS)
  }
  await handle(SINK, async (stream, next) => {
    const size = asked(await next())
    await send(stream, say(size)) // from now on only data comes
    await count(next, size)
    await send(stream, say(size))
  })
  await handle(SOURCE, async (stream, next) => { await sendBytes(stream, asked(await next())) })
  await handle(ECHO, async (stream, next) => {
    for (let chunk = await next(); chunk !== null; chunk = await next()) await send(stream, chunk)
  })
}

async function transfer (connection, bytes) {
  const started = performance.now()
  const up = await connection.newStream(SINK, OPTIONS)
  const acknowledged = reading(up)
  await send(up, say(bytes))
  await acknowledged()
  await sendBytes(up, bytes)
  await acknowledged()
  const down = await connection.newStream(SOURCE, OPTIONS)
  const data = reading(down)
  await send(down, say(bytes))
  await count(data, bytes)
  await Promise.all([up.close(), down.close()])
  return { seconds: (performance.now() - started) / 1000 }
}

async function echo (connection, rounds) {
  const stream = await connection.newStream(ECHO, OPTIONS)
  const next = reading(stream)
  const times = []
  for (let round = 0; round < rounds; round++) {
    const started = performance.now()
    await send(stream, new Uint8Array(STEP))
    await count(next, STEP)
    times.push(performance.now() - started)
  }
  await stream.close()
  times.sort((one, other) => one - other)
  return { milliseconds: times[rounds >> 1] }
}

async function connect (relay, peers) {
  const ready = await Promise.all(Array.from({ length: peers }, createPeer))
  const waiting = [...ready]
  const started = performance.now()
  await Promise.all(Array.from({ length: AT_ONCE }, async () => {
    for (let peer = waiting.pop(); peer !== undefined; peer = waiting.pop()) {
      await peer.node.dial(multiaddr(relay))
      await peer.reserve(relay)
    }
  }))
  return { seconds: (performance.now() - started) / 1000 }
}

async function main (relay) {
  gatherSockets()
  const [served, caller] = await Promise.all([createPeer(), createPeer()])
  await serve(served.node)
  await served.node.dial(multiaddr(relay))
  await served.reserve(relay)
  const connection = await caller.node.dial(multiaddr(`${relay}/p2p-circuit/p2p/${served.node.peerId}`))
  const actions = {
    transfer: ({ bytes }) => transfer(connection, bytes),
    echo: ({ rounds }) => echo(connection, rounds),
    connect: ({ peers }) => connect(relay, peers)
  }
  console.log(JSON.stringify({ ready: true }))
  for await (const line of createInterface({ input: process.stdin })) {
    const command = JSON.parse(line)
    console.log(JSON.stringify(await actions[command.do](command)))
  }
  process.exit(0) // hundreds of connections: no need to part with each
}

await main(process.argv[2])
