// js-libp2p behind one relay: identity, a reserved slot, protocols served and dialled through it.
// Rule of the file: the only one that imports libp2p. After a lost relay everything is built anew:
// js-libp2p does not reserve again on a relay given by address, and remembers failed ones for ever.

import './rtc_shim.ts' // before @libp2p/webrtc, which looks for RTCPeerConnection when it loads
import { circuitRelayTransport } from '@libp2p/circuit-relay-v2'
import { generateKeyPairFromSeed } from '@libp2p/crypto/keys'
import { identify, identifyPush } from '@libp2p/identify'
import type { Connection, PrivateKey, StreamHandlerOptions } from '@libp2p/interface'
import { noise } from '@libp2p/noise'
import { peerIdFromPrivateKey, peerIdFromString } from '@libp2p/peer-id'
import { ping } from '@libp2p/ping'
import { webRTC } from '@libp2p/webrtc'
import { webSockets } from '@libp2p/websockets'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import type { ConnectionState } from '../worker/messages.ts'
import { describe, fault } from './faults.ts'
import type { NetworkHost, StreamHandler } from './rpc.ts'
import type { RpcStream } from './streams.ts'

const DIAL_TIMEOUT = 30_000 // ms; WebRTC dials on a loaded machine need more than libp2p's 6 s
const RESERVE_TIMEOUT = 15_000
const RETRY_FIRST = 500 // ms before the second attempt to come back; doubles
const RETRY_MOST = 30_000
const PULSE = 30_000 // ms between pings of the relay, and what each may take: a busy tab is slow, not dead
const MANY = 4096 // streams per protocol and connection (libp2p: 32), connections through the relay
const YAMUX_WINDOW = 1024 * 1024 // below the 4 MiB at which js-libp2p aborts a paused stream

const STREAM_OPTIONS: StreamHandlerOptions = { runOnLimitedConnection: true, maxInboundStreams: MANY, maxOutboundStreams: MANY }

type Reserve = (address: string) => Promise<void>
interface Live { node: Awaited<ReturnType<typeof build>>['node'], relay: string, connection: Connection }
export type OnConnection = (state: ConnectionState, relay: string, addresses: string[], reason: string) => void

/** A libp2p node that is not started, and how to take a slot with it. */
async function build (privateKey: PrivateKey) {
  let reserve: Reserve = async () => { throw new Error('libp2p did not create its circuit transport') }
  const circuits = circuitRelayTransport({ maxInboundStopStreams: MANY, maxOutboundStopStreams: MANY, reservationCompletionTimeout: RESERVE_TIMEOUT })
  const node = await createLibp2p({
    start: false,
    privateKey,
    transports: [
      webSockets(),
      components => {
        reserve = async address => { await components.transportManager.listen([multiaddr(`${address}/p2p-circuit`)]) }
        return circuits(components)
      },
      webRTC({ rtcConfiguration: { iceServers: [] } })
    ],
    connectionEncrypters: [noise()],
    streamMuxers: [yamux({ streamOptions: { maxStreamWindowSize: YAMUX_WINDOW }, maxInboundStreams: MANY, maxOutboundStreams: MANY })],
    connectionMonitor: { enabled: false }, // its pings and ours (#watch) may not overlap: one stream is allowed
    connectionManager: {
      dialTimeout: 2 * DIAL_TIMEOUT,
      addressDialTimeout: DIAL_TIMEOUT,
      maxConnections: MANY,
      inboundConnectionThreshold: MANY, // per second and address: all circuits come from the relay's
      maxIncomingPendingConnections: MANY
    },
    connectionGater: { denyDialMultiaddr: () => false }, // loopback and private relays are meant
    services: { identify: identify(), identifyPush: identifyPush(), ping: ping() }
  })
  return { node, reserve: async (address: string) => { await reserve(address) } }
}

export class RelayedHost implements NetworkHost {
  readonly peerId: string
  readonly #privateKey: PrivateKey
  readonly #relays: string[]
  readonly #onConnection: OnConnection
  readonly #handlers = new Map<string, StreamHandler>()
  #live: Live | null = null
  #closed = false

  private constructor (privateKey: PrivateKey, relays: string[], onConnection: OnConnection) {
    this.peerId = peerIdFromPrivateKey(privateKey).toString()
    this.#privateKey = privateKey
    this.#relays = relays
    this.#onConnection = onConnection
  }

  /** `seed`: the 32 bytes of the Ed25519 identity. `relays`: multiaddrs that end in /p2p/ID. */
  static async create (seed: Uint8Array, relays: string[], onConnection: OnConnection): Promise<RelayedHost> {
    return new RelayedHost(await generateKeyPairFromSeed('Ed25519', seed), relays, onConnection)
  }

  async serve (protocol: string, handler: StreamHandler): Promise<void> {
    this.#handlers.set(protocol, handler)
    if (this.#live !== null) await this.#handle(this.#live.node, protocol, handler)
  }

  /** Take a slot on the first relay that gives one; from then on it is taken again when lost. */
  async listen (): Promise<void> {
    const reasons = await this.#tryRelays()
    if (reasons.length > 0) throw fault('Unreachable', `no relay could be reached: ${reasons.join('; ')}`)
  }

  async dial (peer: string, protocol: string, signal: AbortSignal): Promise<RpcStream> {
    const live = this.#live
    if (live === null) throw fault('Unreachable', 'the relay is not connected, so no peer can be reached')
    try {
      const stream = peer === live.connection.remotePeer.toString()
        ? await live.connection.newStream(protocol, { ...STREAM_OPTIONS, signal })
        : await live.node.dialProtocol(this.#target(live, peer), protocol, { ...STREAM_OPTIONS, signal })
      return stream as unknown as RpcStream // its event types are narrower than the Reader asks
    } catch (error) {
      if (error instanceof Error && error.name === 'UnsupportedProtocolError') {
        throw fault('HandshakeError', `peer ${peer} does not answer ${protocol}`)
      }
      throw fault('Unreachable', `peer ${peer} cannot be reached: ${describe(error)}`)
    }
  }

  decode (peer: string): Uint8Array {
    return peerIdFromString(peer).toMultihash().bytes
  }

  async close (): Promise<void> {
    this.#closed = true
    const live = this.#live
    this.#live = null
    await live?.node.stop()
  }

  #target (live: Live, peer: string) {
    const id = peerIdFromString(peer)
    return live.node.getConnections(id).length > 0 ? id : multiaddr(`${live.relay}/p2p-circuit/p2p/${peer}`)
  }

  /** One round over the relays; empty when one took us, else why each did not. */
  async #tryRelays (): Promise<string[]> {
    const reasons: string[] = []
    for (const relay of this.#relays) {
      if (this.#closed) break
      this.#onConnection('connecting', relay, [], '')
      try {
        await this.#connect(relay)
        return []
      } catch (error) {
        reasons.push(`${relay}: ${describe(error)}`)
      }
    }
    return reasons.length > 0 ? reasons : ['the origin names no relay that a browser can dial']
  }

  async #connect (relay: string): Promise<void> {
    const { node, reserve } = await build(this.#privateKey)
    try {
      await Promise.all([...this.#handlers].map(async ([protocol, handler]) => { await this.#handle(node, protocol, handler) }))
      await node.start()
      const connection = await node.dial(multiaddr(relay), { signal: AbortSignal.timeout(DIAL_TIMEOUT) })
      await reserve(relay)
      if (this.#closed) throw new Error('closed meanwhile')
      this.#live = { node, relay, connection }
    } catch (error) {
      void node.stop()
      throw error
    }
    this.#watch(this.#live)
    await addressesOf(node)
    this.#onConnection('reserved', relay, node.getMultiaddrs().map(String), '')
  }

  async #handle (node: Live['node'], protocol: string, handler: StreamHandler): Promise<void> {
    await node.handle(protocol, async (stream, connection) => {
      await handler(stream as unknown as RpcStream, connection.remotePeer.toString())
    }, { ...STREAM_OPTIONS, force: true })
  }

  /** Notice that the relay is gone: its connection closes, our slot is not renewed, or pings stay out. */
  #watch (live: Live): void {
    const pulse = setInterval(() => {
      live.node.services.ping.ping(live.connection.remotePeer, { signal: AbortSignal.timeout(PULSE) })
        .catch((error: unknown) => { lost(`the relay does not answer pings: ${describe(error)}`) })
    }, PULSE)
    const lost = (reason: string): void => {
      if (this.#live !== live) return
      this.#live = null
      clearInterval(pulse)
      void live.node.stop()
      this.#onConnection('lost', live.relay, [], reason)
      void this.#comeBack()
    }
    live.node.addEventListener('connection:close', event => {
      if (event.detail.id === live.connection.id) lost('the connection to the relay closed')
    })
    live.node.addEventListener('self:peer:update', () => {
      if (live.connection.status === 'open' && live.node.getMultiaddrs().length === 0) lost('the relay did not renew our slot')
    })
    if (live.connection.status !== 'open') lost('the connection to the relay closed')
  }

  async #comeBack (): Promise<void> {
    for (let pause = RETRY_FIRST; !this.#closed; pause = Math.min(2 * pause, RETRY_MOST)) {
      await new Promise(resolve => setTimeout(resolve, pause * (0.5 + Math.random())))
      if (this.#closed || (await this.#tryRelays()).length === 0) return
    }
  }
}

/** Wait until a reserved node shows its addresses: it does so a few microtasks later. */
async function addressesOf (node: Live['node']): Promise<void> {
  const deadline = Date.now() + RESERVE_TIMEOUT
  while (node.getMultiaddrs().length === 0 && Date.now() < deadline) await new Promise(resolve => setTimeout(resolve, 5))
}
