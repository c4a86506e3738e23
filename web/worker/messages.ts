// Generated from kwaainet/browser/messages.py by build/messages.py; change it there.

export const MAX_UNARY_SIZE = 4194304

export const MAX_FRAME_SIZE = 67108864

export const FRAME_HEADER_SIZE = 9

export const STREAM_WINDOW = 1048576

export const MAX_REPORTED = 64

export type State =
  | "starting"
  | "reserving"
  | "loading"
  | "joining"
  | "online"
  | "paused"
  | "draining"
  | "offline"
  | "error"

export type Backend =
  | "wasm"
  | "webgpu"

export type ConnectionState =
  | "connecting"
  | "reserved"
  | "lost"

export type ConnectionKind =
  | "relay"
  | "circuit"
  | "webrtc"

export type FaultName =
  | "RpcError"
  | "StreamReset"
  | "Unreachable"
  | "ProtocolError"
  | "LimitExceeded"
  | "HandshakeError"
  | "CapacityError"

/** A STUN or TURN server, as RTCPeerConnection takes it. */
export interface IceServer {
  urls: string[]
  username?: string
  credential?: string
}

/** Take up the identity (the one this browser keeps, or one of the moment) and be ready; the Python worker says when to listen. ``direct``: connect to other tabs by WebRTC where that can be done. ``ahead``: seconds that this machine's clock is ahead of the relay's, 0 where it is right. ``near_bits``: how many first bits of its place among peers the identity should share with the first relay's, so that the peer is found by its id. */
export interface StartNetwork {
  type: "start-network"
  identity: "kept" | "new"
  relays: string[]
  node: MessagePort
  rtc: MessagePort
  direct: boolean
  ice_servers: IceServer[]
  ahead: number
  near_bits: number
}

/** Relays that were heard of meanwhile: slots are held on two, where so many are known. */
export interface Relays {
  type: "relays"
  relays: string[]
}

/** The page goes away now: error frames first, then the farewell call. ``said`` is raised when the frames are on their way; only an isolated page has such a flag. */
export interface Bye {
  type: "bye"
  reason: string
  said?: SharedArrayBuffer
}

/** Who we are, as soon as it is known. */
export interface Identity {
  type: "identity"
  peer_id: string
}

/** How the relay is reached. ``addresses`` are ours through it; ``reason`` says why it was lost. */
export interface Connection {
  type: "connection"
  state: "connecting" | "reserved" | "lost"
  relay: string
  addresses: string[]
  reason: string
}

/** One connected peer: by what it is reached best, and bytes of its RPCs since it connected. ``rtt_ms`` is absent until it was measured. */
export interface PeerReport {
  peer: string
  kind: "relay" | "circuit" | "webrtc"
  rtt_ms?: number
  bytes_in: number
  bytes_out: number
}

/** Who is connected, said again whenever it has changed; the busiest ``MAX_REPORTED`` of them. */
export interface Peers {
  type: "peers"
  peers: PeerReport[]
}

/** A worker cannot go on; ``message`` is for people. */
export interface Failed {
  type: "failed"
  error: string
  message: string
}

/** Answer a protocol. Everything served must be said before ``listen``. */
export interface Serve {
  type: "serve"
  protocol: string
  kind: "unary" | "stream"
}

/** Reserve a slot on a relay; answered by ``result`` or ``fault``, lost slots are taken again. */
export interface Listen {
  type: "listen"
  id: number
}

/** A unary call to make when the page goes away. */
export interface Farewell {
  type: "farewell"
  peer: string
  protocol: string
  body: Uint8Array<ArrayBuffer>
}

/** Error frames to every served stream, then all connections end; answered by ``result``. */
export interface Leave {
  type: "leave"
  id: number
  reason: string
}

/** A unary RPC to ``peer``, or from it. */
export interface Call {
  type: "call"
  id: number
  peer: string
  protocol: string
  body: Uint8Array<ArrayBuffer>
}

/** The end of a ``call`` (``body``), a ``listen`` or ``leave``, or the answer to ``open``. */
export interface Result {
  type: "result"
  id: number
  body?: Uint8Array<ArrayBuffer>
}

/** A call or stream failed; the name is a class of ``kwaainet.errors``. */
export interface Fault {
  type: "fault"
  id: number
  error: "RpcError" | "StreamReset" | "Unreachable" | "ProtocolError" | "LimitExceeded" | "HandshakeError" | "CapacityError"
  message: string
}

/** A stream RPC to ``peer`` (answered by ``result`` once open), or from it. */
export interface Open {
  type: "open"
  id: number
  peer: string
  protocol: string
}

/** One message of a stream. */
export interface Data {
  type: "data"
  id: number
  body: Uint8Array<ArrayBuffer>
}

/** ``bytes`` of the other side's framed data have been taken. */
export interface Credit {
  type: "credit"
  id: number
  bytes: number
}

/** The caller has no more to send. */
export interface End {
  type: "end"
  id: number
}

/** The callee is done. */
export interface Close {
  type: "close"
  id: number
}

/** The caller gave up, or the stream broke. */
export interface Cancel {
  type: "cancel"
  id: number
  reason: string
}

/** A model's text settings: their address, bytes, and what ``fetch`` checks them by. */
export interface TextFile {
  url: string
  size: number
  integrity: string
}

/** The model an origin offers: addresses of its manifest, of the folder of its files and of its page. ``text`` is absent where it cannot be talked to. */
export interface Model {
  prefix: string
  num_blocks: number
  manifest: string
  files: string
  repository?: string
  text?: TextFile
}

/** The network worker died: every call and stream has failed. */
export interface NetworkGone {
  type: "network-gone"
  reason: string
}

/** How far loading is: ``done`` of ``total`` bytes of all there is to load, 0 while that is unknown. ``stage`` is what is waited for: ``python``, then ``weights``, then ``build``. ``cached`` of the bytes done were kept here before. ``rate`` is bytes a second from the network, smoothed, 0 when none came; ``seconds_left`` is absent while it cannot be told. */
export interface LoadProgress {
  type: "progress"
  stage: string
  done: number
  total: number
  cached: number
  rate: number
  seconds_left?: number
}

/** The worker has ended what it did and left. */
export interface Stopped {
  type: "stopped"
}

export type PageToNetwork =
  | StartNetwork
  | Relays
  | Bye

export type NetworkToPage =
  | Identity
  | Connection
  | Peers
  | Failed

export type NodeToNetwork =
  | Serve
  | Listen
  | Farewell
  | Leave
  | Call
  | Result
  | Fault
  | Open
  | Data
  | Credit
  | End
  | Close
  | Cancel

export type NetworkToNode =
  | Identity
  | Connection
  | Call
  | Result
  | Fault
  | Open
  | Data
  | Credit
  | End
  | Close
  | Cancel
  | NetworkGone
