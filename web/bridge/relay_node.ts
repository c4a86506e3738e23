// One libp2p node behind one relay: how it is built, and where among peers its identity stands.
// Rule of the file: with host.ts the only one that imports libp2p; it holds no state.

import './rtc_shim.ts' // before @libp2p/webrtc, which looks for RTCPeerConnection when it loads
import { circuitRelayTransport } from '@libp2p/circuit-relay-v2'
import { generateKeyPairFromSeed } from '@libp2p/crypto/keys'
import { identify, identifyPush } from '@libp2p/identify'
import type { Connection, Libp2p, PrivateKey } from '@libp2p/interface'
import { noise, pureJsCrypto } from '@libp2p/noise'
import { peerIdFromPrivateKey, peerIdFromString } from '@libp2p/peer-id'
import { ping } from '@libp2p/ping'
import { webRTC, webRTCDirect } from '@libp2p/webrtc'
import { webSockets } from '@libp2p/websockets'
import { yamux } from '@libp2p/yamux'
import { type Multiaddr, multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import type { IceServer } from '../worker/messages.ts'
import type { Nearness } from './identity.ts'
import { sparing } from './muxer.ts'
import { calm } from './noise.ts'
import { wasmCipher } from './noise_cipher.ts'
import type { Bytes } from './protobuf.ts'

export const DIAL_TIMEOUT = 30_000 // ms; WebRTC dials on a loaded machine need more than libp2p's 6 s
const RESERVE_TIMEOUT = 15_000
const DIRECT_TIMEOUT = 15_000 // ms an attempt to reach a peer by WebRTC may take
const YAMUX_WINDOW = 1024 * 1024 // below the 4 MiB at which js-libp2p aborts a paused stream
const MAX_EARLY_STREAMS = 128 // that a peer may open before its WebRTC connection is announced here
export const MANY = 4096 // streams per protocol and connection (libp2p: 32), connections through the relay

/** A libp2p node that is not started, how to take a slot with it, and how to dial past its queue. */
export async function build (privateKey: PrivateKey, { direct, iceServers }: { direct: boolean, iceServers: IceServer[] }) {
  let listen: (address: Multiaddr) => Promise<void>
  let dialNow: (address: Multiaddr, signal: AbortSignal) => Promise<Connection>
  const circuits = circuitRelayTransport({ maxInboundStopStreams: MANY, maxOutboundStopStreams: MANY, reservationCompletionTimeout: RESERVE_TIMEOUT })
  const byWebRtc = webRTC({
    rtcConfiguration: { iceServers },
    maxEarlyStreams: MAX_EARLY_STREAMS
  })
  const node = await createLibp2p({
    start: false,
    privateKey,
    transports: [
      webSockets(),
      webRTCDirect(), // relays without a certificate of an authority
      components => {
        const { transportManager } = components
        listen = async address => { await transportManager.listen([address]) }
        dialNow = async (address, signal) => await transportManager.dial(address, { signal })
        return circuits(components)
      },
      ...(direct ? [byWebRtc] : [])
    ],
    connectionEncrypters: [calm(noise({ crypto: { ...pureJsCrypto, ...wasmCipher } }))],
    streamMuxers: [sparing(yamux({ streamOptions: { maxStreamWindowSize: YAMUX_WINDOW }, maxInboundStreams: MANY, maxOutboundStreams: MANY }))],
    connectionMonitor: { enabled: false }, // its pings and ours (#measure) may not overlap: one stream is allowed
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
  return {
    node,
    reserve: async (relay: string) => { await listen(multiaddr(`${relay}/p2p-circuit`)) },
    dialDirect: async (relay: string, peer: string) => {
      await dialNow(multiaddr(`${relay}/p2p-circuit/webrtc/p2p/${peer}`), AbortSignal.timeout(DIRECT_TIMEOUT))
    }
  }
}

/** With how many bits the place of a seed's peer begins as the relay's does: both are the sha256 of an id, as where kad looks. */
export function nearness (relay: string): Nearness {
  const place = placeOf(peerIdFromString(idOf(relay)).toMultihash().bytes)
  return async seed => Math.clz32(await place ^ await placeOf(await idOfSeed(seed)))
}

/** The first 32 bits of where kad sees an id. */
async function placeOf (id: Uint8Array): Promise<number> {
  return new DataView(await crypto.subtle.digest('SHA-256', id as Bytes)).getUint32(0)
}

const PKCS8 = Uint8Array.of(0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20) // RFC 8410, before the seed
const ID = Uint8Array.of(0, 0x24, 8, 1, 0x12, 0x20) // a peer's id by its key itself, before the key

/** The id of a seed's peer: by the browser's own Ed25519, which takes a tenth of the time, where it has that. */
export async function idOfSeed (seed: Bytes): Promise<Uint8Array> {
  try {
    const key = await crypto.subtle.importKey('pkcs8', Uint8Array.of(...PKCS8, ...seed), 'Ed25519', true, ['sign'])
    const { x } = await crypto.subtle.exportKey('jwk', key)
    return Uint8Array.of(...ID, ...Uint8Array.from(atob(x!.replace(/-/g, '+').replace(/_/g, '/')), character => character.charCodeAt(0)))
  } catch {
    return peerIdFromPrivateKey(await generateKeyPairFromSeed('Ed25519', seed)).toMultihash().bytes
  }
}

/** The peer id at the end of a relay's address. */
export const idOf = (relay: string): string => relay.slice(relay.lastIndexOf('/') + 1)

/** Wait until a reserved node shows its addresses: it does so a few microtasks later. */
export async function addressesOf (node: Libp2p): Promise<void> {
  const deadline = Date.now() + RESERVE_TIMEOUT
  while (node.getMultiaddrs().length === 0 && Date.now() < deadline) await new Promise(resolve => setTimeout(resolve, 5))
}
