// js-libp2p behind relays: identity, a reserved slot on two of them, protocols served and dialled through either.
// Each relay has a libp2p node of its own, of the same identity: what happens to one is not seen by the other.
// A peer is dialled through the relay's circuit, which works for everybody and at once; where it speaks
// WebRTC a direct connection follows (direct.ts), and new streams go over the best there is.
// Rule of the file: with relay_node.ts the only one that imports libp2p. After a lost relay everything is built anew:
// js-libp2p does not reserve again on a relay given by address, and remembers failed ones for ever.

import { generateKeyPairFromSeed } from '@libp2p/crypto/keys'
import type { Connection, Libp2p, PrivateKey, Stream, StreamHandlerOptions } from '@libp2p/interface'
import { peerIdFromPrivateKey, peerIdFromString } from '@libp2p/peer-id'
import { multiaddr } from '@multiformats/multiaddr'
import type { ConnectionKind, ConnectionState, IceServer, PeerReport } from '../worker/messages.ts'
import { type Link, Upgrades } from './direct.ts'
import { describe, fault } from './faults.ts'
import { addressesOf, build, DIAL_TIMEOUT, idOf, MANY } from './relay_node.ts'
import type { NetworkHost, StreamHandler } from './rpc.ts'
import { Served } from './served.ts'
import type { RpcStream } from './streams.ts'
import { echo, Traffic } from './traffic.ts'

const RETRY_FIRST = 500 // ms before the second attempt to come back; doubles
const RETRY_SOON = 2000 // ... to at most this while the relay may be starting anew: its tabs are back within 5 s
const RETRY_SOON_FOR = 600_000
const RETRY_MOST = 30_000 // ... and to this later
const TICK = 2000 // ms between looks at who is connected and how well
const ECHO_EVERY = 10_000 // ms between pings of a peer
const ECHO_TIMEOUT = 30_000 // ms a ping may take: a busy tab is slow, not dead
const MAX_ECHOES = 16 // pings under way at once
const DIRECT_OPEN_TIMEOUT = 5000 // ms to open a stream on a WebRTC connection, which may be dead before it knows
const SIGNALLING = '/webrtc-signaling/0.0.1' // who answers this can be reached by WebRTC
const HOP = '/libp2p/circuit/relay/0.2.0/hop' // who serves this is a relay, and one that drains no more
const PING = '/ipfs/ping/1.0.0'
const SLOTS = 2 // relays held at once, where so many are named: who comes through one is not cut off with the other

const MOST_RELAYS = 16 // addresses known at once
const DIRECT_PATIENCE = 1500 // ms a stream RPC waits for a peer's first WebRTC connection: it stays where it began
const CREDITED = '+credit' // behind a stream RPC's protocol on WebRTC, which has no windows: both ends send credits

const STREAM_OPTIONS: StreamHandlerOptions = { runOnLimitedConnection: true, maxInboundStreams: MANY, maxOutboundStreams: MANY }

type Live = Awaited<ReturnType<typeof build>> & { relay: string, connection: Connection, upgrades: Upgrades<PeerLink>, leaving: boolean, gone: boolean }
interface PeerLink extends Link { connection: Connection }

export interface HostOptions {
  /** Multiaddrs that end in /p2p/ID, tried in turn; slots are held on as many as SLOTS different relays. */
  relays: string[]
  /** Whether to connect to peers by WebRTC. */
  direct: boolean
  iceServers: IceServer[]
}

export interface HostListener {
  connection: (state: ConnectionState, relay: string, addresses: string[], reason: string) => void
  peers: (peers: PeerReport[]) => void
}

export class RelayedHost implements NetworkHost {
  readonly peerId: string
  readonly #privateKey: PrivateKey
  readonly #options: HostOptions
  readonly #listener: HostListener
  readonly #served = new Served<StreamHandler>()
  readonly #traffic = new Traffic()
  readonly #echoing = new Set<string>()
  readonly #lives: Live[] = [] // the longest held first
  #relays: string[]
  #early: Promise<string[]> | null = null
  #coming = false
  #closed = false
  #reported = ''

  private constructor (privateKey: PrivateKey, options: HostOptions, listener: HostListener) {
    this.peerId = peerIdFromPrivateKey(privateKey).toString()
    this.#privateKey = privateKey
    this.#options = options
    this.#relays = options.relays
    this.#listener = listener
  }

  /** `seed`: the 32 bytes of the Ed25519 identity. */
  static async create (seed: Uint8Array, options: HostOptions, listener: HostListener): Promise<RelayedHost> {
    return new RelayedHost(await generateKeyPairFromSeed('Ed25519', seed), options, listener)
  }

  async serve (protocol: string, kind: 'unary' | 'stream', handler: StreamHandler): Promise<void> {
    for (const name of kind === 'stream' ? [protocol, protocol + CREDITED] : [protocol]) {
      this.#served.set(name, handler)
      for (const live of this.#lives) await this.#handle(live.node, name, handler)
    }
  }

  /** More relays, heard of meanwhile. */
  know (relays: string[]): void {
    this.#relays = [...new Set([...this.#relays, ...relays])].slice(0, MOST_RELAYS)
    if (this.#lives.length > 0) void this.#comeBack(0)
  }

  /** Begin to take a slot while Python starts, which takes longer: whoever calls too early is refused. */
  begin (): void {
    this.#early ??= this.#tryRelays()
  }

  /** Take a slot on the first relay that gives one, and on another in the background; both are taken again when lost. */
  async listen (): Promise<void> {
    const early = await this.#early
    this.#early = null
    const reasons = early?.length === 0 ? early : await this.#tryRelays()
    if (reasons.length > 0 && this.#lives.length === 0) throw fault('Unreachable', `no relay could be reached: ${reasons.join('; ')}`)
    void this.#comeBack(0)
  }

  async dial (peer: string, protocol: string, signal: AbortSignal): Promise<RpcStream> {
    return await this.#reach(peer, protocol, [protocol], signal, 0)
  }

  async open (peer: string, protocol: string, signal: AbortSignal): Promise<RpcStream> {
    return await this.#reach(peer, protocol, [protocol + CREDITED, protocol], signal, DIRECT_PATIENCE)
  }

  decode (peer: string): Uint8Array {
    return peerIdFromString(peer).toMultihash().bytes
  }

  async close (): Promise<void> {
    this.#closed = true
    await Promise.all(this.#lives.splice(0).map(async live => { await live.node.stop() }))
  }

  /** A stream to a peer; `onDirect` are the names the protocol may have on WebRTC, the best first. */
  async #reach (peer: string, protocol: string, onDirect: string[], signal: AbortSignal, patience: number): Promise<RpcStream> {
    const failed: string[] = []
    for (const live of this.#inOrder(peer)) {
      try {
        return await this.#reachBy(live, peer, protocol, onDirect, signal, patience)
      } catch (error) {
        if (isUnsupported(error)) throw fault('HandshakeError', `peer ${peer} does not answer ${protocol}`)
        failed.push(describe(error))
        if (signal.aborted) break
      }
    }
    if (failed.length === 0) throw fault('Unreachable', 'the relay is not connected, so no peer can be reached')
    throw fault('Unreachable', `peer ${peer} cannot be reached: ${failed.join('; ')}`)
  }

  /** The relays' nodes by which a peer may be reached, those that are connected to it before others, those that go last. */
  #inOrder (peer: string): Live[] {
    const connected = (live: Live): number => live.leaving ? 2 : live.upgrades.best(peer) === null ? 1 : 0
    const able = this.#lives.filter(live => !live.gone || live.upgrades.best(peer) !== null)
    return able.sort((one, other) => connected(one) - connected(other))
  }

  async #reachBy (live: Live, peer: string, protocol: string, onDirect: string[], signal: AbortSignal, patience: number): Promise<RpcStream> {
    if (live.upgrades.best(peer) === null) await this.#circuit(live, peer, signal)
    if (patience > 0) await live.upgrades.settled(peer, patience)
    const link = live.upgrades.best(peer)
    const stream = link?.direct === true
      ? await this.#openDirect(live, link.connection, onDirect, protocol, signal)
      : await (link?.connection ?? await this.#circuit(live, peer, signal)).newStream(protocol, { ...STREAM_OPTIONS, signal })
    return this.#adopted(stream, peer)
  }

  /** Where a direct connection fails the circuit takes over; if that works, the other is dead. */
  async #openDirect (live: Live, connection: Connection, names: string[], protocol: string, signal: AbortSignal): Promise<Stream> {
    try {
      return await connection.newStream(names, { ...STREAM_OPTIONS, signal: AbortSignal.any([signal, AbortSignal.timeout(DIRECT_OPEN_TIMEOUT)]) })
    } catch (error) {
      if (signal.aborted || isUnsupported(error)) throw error
      const circuit = await this.#circuit(live, connection.remotePeer.toString(), signal)
      const stream = await circuit.newStream(protocol, { ...STREAM_OPTIONS, signal })
      connection.abort(new Error('no stream could be opened on it, but on the circuit'))
      return stream
    }
  }

  /** The connection to a peer through the relay; dialled where there is none. */
  async #circuit (live: Live, peer: string, signal: AbortSignal): Promise<Connection> {
    const there = linksTo(live.node, peer).find(link => !link.direct)
    return there?.connection ?? await live.node.dial(multiaddr(`${live.relay}/p2p-circuit/p2p/${peer}`), { signal, force: true })
  }

  #adopted (stream: Stream, peer: string): RpcStream {
    return Object.assign(
      stream as unknown as RpcStream, // its event types are narrower than the Reader asks
      { meter: this.#traffic.meter(peer), credited: stream.protocol.endsWith(CREDITED) }
    )
  }

  /** One round over the relays that we are not on; empty when one took us, else why each did not. */
  async #tryRelays (): Promise<string[]> {
    const reasons: string[] = []
    for (const relay of this.#relays) {
      if (this.#closed) break
      if (this.#lives.some(live => !live.gone && idOf(live.relay) === idOf(relay))) continue
      this.#listener.connection('connecting', relay, [], '')
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
    const built = await build(this.#privateKey, this.#options)
    const { node } = built
    const upgrades = new Upgrades<PeerLink>(this.peerId, {
      links: peer => linksTo(node, peer),
      connect: async peer => { await built.dialDirect(relay, peer) },
      close: link => { link.connection.close().catch(() => {}) }
    }, () => performance.now())
    const serveAll = this.#served.on(async (protocol, handler) => { await this.#handle(node, protocol, handler) })
    try {
      await serveAll()
      this.#follow(node, upgrades)
      await node.start()
      const connection = await node.dial(multiaddr(relay), { signal: AbortSignal.timeout(DIAL_TIMEOUT) })
      await built.reserve(relay)
      await serveAll() // a relay far away takes longer than Python, which has said meanwhile what it serves
      if (this.#closed) throw new Error('closed meanwhile')
      const live = { ...built, relay, connection, upgrades, leaving: false, gone: false }
      this.#lives.push(live)
      this.#watch(live)
    } catch (error) {
      void node.stop()
      throw error
    }
    await addressesOf(node)
    this.#reportKinds()
    this.#listener.connection('reserved', relay, node.getMultiaddrs().map(String), '')
  }

  async #handle (node: Libp2p, protocol: string, handler: StreamHandler): Promise<void> {
    await node.handle(protocol, async (stream, connection) => {
      const peer = connection.remotePeer.toString()
      await handler(this.#adopted(stream, peer), peer)
      for (const live of this.#lives) if (live.node === node && live.leaving) this.#letGo(live)
    }, { ...STREAM_OPTIONS, force: true })
  }

  /** Tell the upgrades what becomes of connections. */
  #follow (node: Libp2p, upgrades: Upgrades<PeerLink>): void {
    node.addEventListener('peer:identify', ({ detail }) => {
      upgrades.identified(detail.peerId.toString(), this.#options.direct && detail.protocols.includes(SIGNALLING))
    })
    for (const type of ['connection:open', 'connection:close'] as const) {
      node.addEventListener(type, ({ detail }) => { upgrades.changed(detail.remotePeer.toString()) })
    }
  }

  /** Notice that the relay is gone: its connection closes, our slot is not renewed, or pings stay out. Or that it will be. */
  #watch (live: Live): void {
    const { node, connection } = live
    const lost = (reason: string): void => { this.#lose(live, reason) }
    const ticking = setInterval(() => {
      if (this.#lives.includes(live)) this.#tick(live, lost)
      else clearInterval(ticking)
    }, TICK)
    node.addEventListener('connection:close', event => {
      if (event.detail.id === connection.id) lost('the connection to the relay closed')
    })
    node.addEventListener('peer:identify', ({ detail }) => {
      if (detail.connection.id !== connection.id) return
      if (!detail.protocols.includes(HOP)) this.#leave(live, 'the relay is about to stop', 0)
      else if (live.leaving && !live.gone) this.#stay(live)
    })
    node.addEventListener('self:peer:update', () => {
      if (connection.status === 'open' && node.getMultiaddrs().length === 0) lost('the relay did not renew our slot')
    })
    if (connection.status !== 'open') lost('the connection to the relay closed')
  }

  /** The relay is gone, and every circuit with it; what runs directly goes on. */
  #lose (live: Live, reason: string): void {
    if (live.gone) return
    live.gone = true
    for (const connection of live.node.getConnections()) if (!isDirect(connection)) connection.abort(new Error(reason))
    this.#leave(live, reason, RETRY_FIRST)
    this.#letGo(live)
    this.#reportKinds()
    void this.#comeBack(RETRY_FIRST)
  }

  /** The relay goes: others speak for us and reach us from now on. What runs by this one may end, nothing new begins. */
  #leave (live: Live, reason: string, pause: number): void {
    if (live.leaving || this.#closed) return
    live.leaving = true
    this.#listener.connection('lost', live.relay, [], reason)
    this.#letGo(live)
    void this.#comeBack(pause)
  }

  /** The relay does not go after all, and we hold our slot still. */
  #stay (live: Live): void {
    live.leaving = false
    this.#listener.connection('reserved', live.relay, live.node.getMultiaddrs().map(String), '')
  }

  /** Close what is idle of a relay that goes, so that peers come by another, and all of one that is gone and carries nothing. */
  #letGo (live: Live): void {
    const others = live.node.getConnections().filter(({ id }) => id !== live.connection.id)
    const busy = others.filter(({ status, streams }) => status === 'open' && streams.some(stream => stream.status === 'open'))
    for (const connection of others) if (!busy.includes(connection)) connection.close().catch(() => {})
    const place = this.#lives.indexOf(live)
    if (!live.gone || busy.length > 0 || place < 0) return
    this.#lives.splice(place, 1)
    void live.node.stop()
  }

  #tick (live: Live, lost: (reason: string) => void): void {
    live.upgrades.tick()
    if (live.leaving) this.#letGo(live)
    this.#reportKinds()
    const relay = live.connection.remotePeer.toString()
    for (const peer of live.gone ? [] : new Set([relay, ...live.node.getPeers().map(String)])) {
      if (this.#echoing.size >= MAX_ECHOES && peer !== relay) break
      this.#measure(live, peer).catch((error: unknown) => {
        if (peer === relay) lost(`the relay does not answer pings: ${describe(error)}`)
      })
    }
  }

  #reportKinds (): void {
    const kinds = new Map<string, ConnectionKind>(this.#lives.filter(live => !live.gone).map(live => [live.connection.remotePeer.toString(), 'relay']))
    for (const connection of this.#lives.flatMap(live => live.node.getConnections())) {
      const peer = connection.remotePeer.toString()
      if (kinds.get(peer) !== 'relay' && kinds.get(peer) !== 'webrtc') kinds.set(peer, isDirect(connection) ? 'webrtc' : 'circuit')
    }
    this.#report(kinds)
  }

  #report (kinds: ReadonlyMap<string, ConnectionKind>): void {
    const peers = this.#traffic.report(kinds)
    const text = JSON.stringify(peers)
    if (text === this.#reported) return
    this.#reported = text
    this.#listener.peers(peers)
  }

  /** Time an echo of a peer, if it is its turn. */
  async #measure (live: Live, peer: string): Promise<void> {
    const link = live.upgrades.best(peer)
    if (link === null || this.#echoing.has(peer) || !this.#traffic.takeTurn(peer, performance.now(), ECHO_EVERY)) return
    this.#echoing.add(peer)
    try {
      const signal = AbortSignal.timeout(ECHO_TIMEOUT)
      const stream = await link.connection.newStream(PING, { signal, runOnLimitedConnection: true })
      signal.addEventListener('abort', () => { stream.abort(new Error('the ping took too long')) })
      this.#traffic.echoed(peer, await echo(stream as unknown as RpcStream))
    } finally {
      this.#echoing.delete(peer)
    }
  }

  /** Take slots until there are as many as there should be. */
  async #comeBack (first: number): Promise<void> {
    if (this.#coming) return
    this.#coming = true
    const wanted = (): number => Math.min(SLOTS, new Set(this.#relays.map(idOf)).size)
    const patient = performance.now() + RETRY_SOON_FOR
    const held = (): number => this.#lives.filter(live => !live.leaving).length
    for (let pause = first; held() < wanted(); pause = Math.min(Math.max(2 * pause, RETRY_FIRST), held() === 0 && performance.now() < patient ? RETRY_SOON : RETRY_MOST)) {
      await new Promise(resolve => setTimeout(resolve, pause * (0.5 + Math.random())))
      if (this.#closed) break
      if (held() < wanted() && (await this.#tryRelays()).length === 0) pause = 0
    }
    this.#coming = false
  }
}

const isDirect = (connection: Connection): boolean => connection.multiplexer === '/webrtc'

const isUnsupported = (error: unknown): boolean => error instanceof Error && error.name === 'UnsupportedProtocolError'

function linksTo (node: Libp2p, peer: string): PeerLink[] {
  return node.getConnections(peerIdFromString(peer)).filter(connection => connection.status === 'open').map(connection => ({
    connection,
    direct: isDirect(connection),
    ours: connection.direction === 'outbound',
    idle: connection.streams.length === 0
  }))
}
