// The network worker's half of WebRTC: RTCPeerConnection as @libp2p/webrtc knows it, over rtc.ts on the page.
// Rule of the file: imported before @libp2p/webrtc; only what that package uses is here.

import type { Method, RtcReply, RtcRequest, RtcState } from './rtc.ts'
import { type ChannelLike, Emitter, ForwardedChannel, ShimChannel } from './rtc_channel.ts'

const DISCONNECTED_PATIENCE = 5000 // ms a connection may come back in before it counts as lost: browsers wait for half a minute

type ConnectionReply = Extract<RtcReply, { pc: number }>
type ChannelReply = Extract<RtcReply, { op: 'changed' | 'sent' | 'message' }>

let port: MessagePort | null = null
let lastId = 0
const questions = new Map<number, { resolve: (reply: Extract<RtcReply, { op: 'answer' }>) => void, reject: (error: Error) => void }>()
const connections = new Map<number, ShimConnection>()
const forwarded = new Map<number, ForwardedChannel>()

/** Use the page at the other end of `given`. Before this, WebRTC fails with a clear error. */
export function attachRtc (given: MessagePort): void {
  port = given
  given.onmessage = ({ data }: MessageEvent<RtcReply>) => { receive(data) }
}

function receive (reply: RtcReply): void {
  if (reply.op === 'answer' || reply.op === 'failure') {
    const question = questions.get(reply.id)
    questions.delete(reply.id)
    if (reply.op === 'answer') question?.resolve(reply)
    else question?.reject(Object.assign(new Error(reply.message), { name: reply.name }))
  } else if ('pc' in reply) {
    connections.get(reply.pc)?.receive(reply)
  } else {
    toChannel(reply)
  }
}

function toChannel (reply: ChannelReply): void {
  const channel = forwarded.get(reply.channel)
  if (reply.op === 'sent') channel?.sent(reply.bytes)
  else if (reply.op === 'message') channel?.arrived(reply.data)
  else {
    if (reply.type === 'close') forwarded.delete(reply.channel)
    channel?.changed(reply.type, reply.state)
  }
}

/** The channel that came with a reply, or the likeness of one that stayed on the page. */
function channelOf ({ channel: number, dataChannel, state }: Extract<RtcReply, { op: 'opened' | 'announced' }>): ChannelLike {
  if (dataChannel !== undefined) return dataChannel
  const channel = new ForwardedChannel(number, state, post)
  forwarded.set(number, channel)
  return channel
}

function post (request: RtcRequest, transfer: Transferable[] = []): void {
  if (port === null) throw new Error('WebRTC is not available: the page gave this worker no port for it')
  port.postMessage(request, transfer)
}

async function ask (request: (id: number) => RtcRequest): Promise<Extract<RtcReply, { op: 'answer' }>> {
  const id = ++lastId
  return await new Promise((resolve, reject) => {
    questions.set(id, { resolve, reject })
    post(request(id))
  })
}

interface ShimCertificate { handle: number, expires: number, getFingerprints: () => RTCDtlsFingerprint[] }

class ShimConnection extends Emitter implements RtcState {
  connectionState: RTCPeerConnectionState = 'new'
  iceConnectionState: RTCIceConnectionState = 'new'
  signalingState: RTCSignalingState = 'stable'
  localDescription: RTCSessionDescriptionInit | null = null
  remoteDescription: RTCSessionDescriptionInit | null = null
  readonly #id = ++lastId
  readonly #awaited = new Map<number, ShimChannel>()

  static async generateCertificate (algorithm: AlgorithmIdentifier): Promise<ShimCertificate> {
    const { certificate } = await ask(id => ({ op: 'certificate', id, algorithm }))
    if (certificate === undefined) throw new Error('the page made no certificate')
    return { handle: certificate.handle, expires: certificate.expires, getFingerprints: () => certificate.fingerprints }
  }

  constructor (configuration: RTCConfiguration = {}) {
    super()
    connections.set(this.#id, this)
    const { certificates = [], ...rest } = configuration
    const handles = (certificates as unknown as ShimCertificate[]).map(certificate => certificate.handle)
    post({ op: 'create', pc: this.#id, configuration: JSON.parse(JSON.stringify(rest)), certificates: handles })
  }

  receive (reply: ConnectionReply): void {
    if (reply.op === 'event') {
      Object.assign(this, reply.state)
      this.emit(reply.type)
      if (this.connectionState === 'disconnected') this.#doubt()
    } else if (reply.op === 'candidate') {
      this.emit('icecandidate', { candidate: reply.candidate === null ? null : new ShimCandidate(reply.candidate) })
    } else if (reply.op === 'opened') {
      this.#awaited.get(reply.channel)?.attach(channelOf(reply))
      this.#awaited.delete(reply.channel)
    } else {
      const channel = new ShimChannel(reply.label, reply.protocol, reply.number)
      channel.attach(channelOf(reply))
      this.emit('datachannel', { channel })
    }
  }

  /** Close a connection that stays silent, so that what is on it fails while that still helps. */
  #doubt (): void {
    setTimeout(() => { if (this.connectionState === 'disconnected') this.close() }, DISCONNECTED_PATIENCE)
  }

  createDataChannel (label: string, options?: RTCDataChannelInit): ShimChannel {
    const channel = new ShimChannel(label, options?.protocol ?? '', options?.id ?? null)
    const number = ++lastId
    this.#awaited.set(number, channel)
    post({ op: 'channel', pc: this.#id, channel: number, label, ...(options === undefined ? {} : { options }) })
    return channel
  }

  async createOffer (): Promise<RTCSessionDescriptionInit | undefined> {
    return await this.#call('createOffer')
  }

  async createAnswer (): Promise<RTCSessionDescriptionInit | undefined> {
    return await this.#call('createAnswer')
  }

  async setLocalDescription (description?: RTCSessionDescriptionInit): Promise<void> {
    await this.#call('setLocalDescription', description)
  }

  async setRemoteDescription (description: RTCSessionDescriptionInit): Promise<void> {
    await this.#call('setRemoteDescription', description)
  }

  async addIceCandidate (candidate?: RTCIceCandidate | RTCIceCandidateInit): Promise<void> {
    await this.#call('addIceCandidate', candidate === undefined ? undefined : new ShimCandidate(candidate).toJSON())
  }

  close (): void {
    if (this.connectionState === 'closed') return
    this.connectionState = 'closed'
    this.signalingState = 'closed'
    connections.delete(this.#id)
    post({ op: 'close', pc: this.#id })
    queueMicrotask(() => { this.emit('connectionstatechange') })
  }

  async #call (method: Method, argument?: RTCSessionDescriptionInit | RTCIceCandidateInit): Promise<RTCSessionDescriptionInit | undefined> {
    const plain = argument !== undefined && 'sdp' in argument ? { type: argument.type, sdp: argument.sdp } : argument
    const reply = await ask(id => ({ op: 'call', pc: this.#id, id, method, ...(plain === undefined ? {} : { argument: plain as RTCIceCandidateInit }) }))
    if (this.connectionState !== 'closed') Object.assign(this, reply.state)
    return reply.description
  }
}

class ShimDescription {
  readonly type: RTCSdpType
  readonly sdp: string

  constructor (description: RTCSessionDescriptionInit) {
    this.type = description.type
    this.sdp = description.sdp ?? ''
  }
}

class ShimCandidate {
  readonly candidate: string
  readonly sdpMid: string | null
  readonly sdpMLineIndex: number | null
  readonly usernameFragment: string | null

  constructor (candidate: RTCIceCandidate | RTCIceCandidateInit) {
    this.candidate = candidate.candidate ?? ''
    this.sdpMid = candidate.sdpMid ?? null
    this.sdpMLineIndex = candidate.sdpMLineIndex ?? null
    this.usernameFragment = candidate.usernameFragment ?? null
  }

  toJSON (): RTCIceCandidateInit {
    const { candidate, sdpMid, sdpMLineIndex, usernameFragment } = this
    return { candidate, sdpMid, sdpMLineIndex, usernameFragment }
  }
}

if (!('RTCPeerConnection' in globalThis)) {
  Object.assign(globalThis, { RTCPeerConnection: ShimConnection, RTCSessionDescription: ShimDescription, RTCIceCandidate: ShimCandidate })
}
