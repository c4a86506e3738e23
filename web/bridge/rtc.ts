// The page's half of WebRTC: RTCPeerConnection exists only on the page, so it lives here on behalf of
// the network worker; its data channels are transferred there, so no data passes the page. Where a
// browser cannot do that, the page keeps them and forwards their messages (rtc_forward.ts).
// Rule of the file: a channel is transferred in the task that creates or announces it, or events are lost.

import { Forwarder } from './rtc_forward.ts'

const MAX_CONNECTIONS = 256 // at once: peers can ask for them, and each holds ports and threads of the browser

export type Method = 'createOffer' | 'createAnswer' | 'setLocalDescription' | 'setRemoteDescription' | 'addIceCandidate'

/** What the worker asks. `pc` names a connection, `id` a question that wants an answer. */
export type RtcRequest =
  | { op: 'certificate', id: number, algorithm: AlgorithmIdentifier }
  | { op: 'create', pc: number, configuration: RTCConfiguration, certificates: number[] }
  | { op: 'channel', pc: number, channel: number, label: string, options?: RTCDataChannelInit }
  | { op: 'call', pc: number, id: number, method: Method, argument?: RTCSessionDescriptionInit | RTCIceCandidateInit }
  | { op: 'close', pc: number }
  | { op: 'send', channel: number, data: ArrayBuffer }
  | { op: 'close-channel', channel: number }

/** The state of a connection that the worker's copy shows. */
export interface RtcState {
  connectionState: RTCPeerConnectionState
  iceConnectionState: RTCIceConnectionState
  signalingState: RTCSignalingState
  localDescription: RTCSessionDescriptionInit | null
  remoteDescription: RTCSessionDescriptionInit | null
}

export type RtcReply =
  | { op: 'answer', id: number, state?: RtcState, description?: RTCSessionDescriptionInit, certificate?: { handle: number, expires: number, fingerprints: RTCDtlsFingerprint[] } }
  | { op: 'failure', id: number, name: string, message: string }
  | { op: 'event', pc: number, type: 'connectionstatechange' | 'iceconnectionstatechange' | 'signalingstatechange', state: RtcState }
  | { op: 'candidate', pc: number, candidate: RTCIceCandidateInit | null }
  | { op: 'opened', pc: number, channel: number, state: RTCDataChannelState, dataChannel?: RTCDataChannel }
  | { op: 'announced', pc: number, channel: number, state: RTCDataChannelState, label: string, protocol: string, number: number | null, dataChannel?: RTCDataChannel }
  // of channels that stay on the page
  | { op: 'changed', channel: number, type: 'open' | 'closing' | 'close', state: RTCDataChannelState }
  | { op: 'message', channel: number, data: ArrayBuffer }
  | { op: 'sent', channel: number, bytes: number }

/** Whether this browser can hand a data channel to a worker. */
export function canTransferChannels (): boolean {
  if (typeof RTCPeerConnection !== 'function') return false
  const connection = new RTCPeerConnection()
  const { port1 } = new MessageChannel()
  try {
    const channel = connection.createDataChannel('')
    port1.postMessage(null, [channel as unknown as Transferable])
    return true
  } catch {
    return false
  } finally {
    connection.close()
    port1.close()
  }
}

const plain = (description: RTCSessionDescription | null): RTCSessionDescriptionInit | null => description === null ? null : { type: description.type, sdp: description.sdp }

function stateOf (connection: RTCPeerConnection): RtcState {
  const { connectionState, iceConnectionState, signalingState, localDescription, remoteDescription } = connection
  return { connectionState, iceConnectionState, signalingState, localDescription: plain(localDescription), remoteDescription: plain(remoteDescription) }
}

/** Serve a worker over `port`; returns how to end it all. `forward`: channels stay here. */
export function hostRtc (port: MessagePort, forward = !canTransferChannels()): () => void {
  const connections = new Map<number, RTCPeerConnection>()
  const certificates: RTCCertificate[] = []
  const post = (reply: RtcReply, transfer: Transferable[] = []): void => { port.postMessage(reply, transfer) }
  const forwarder = new Forwarder(post)
  let announced = 0

  const hand = (reply: Extract<RtcReply, { op: 'opened' | 'announced' }>, channel: RTCDataChannel): void => {
    if (forward) forwarder.keep(reply.pc, reply.channel, channel)
    post(forward ? reply : { ...reply, dataChannel: channel }, forward ? [] : [channel as unknown as Transferable])
  }

  const create = (pc: number, configuration: RTCConfiguration, handles: number[]): void => {
    if (connections.size >= MAX_CONNECTIONS) return // whatever is asked of it next fails
    const chosen = handles.map(handle => certificates[handle]).filter(certificate => certificate !== undefined)
    const connection = new RTCPeerConnection(chosen.length > 0 ? { ...configuration, certificates: chosen } : configuration)
    connections.set(pc, connection)
    for (const type of ['connectionstatechange', 'iceconnectionstatechange', 'signalingstatechange'] as const) {
      connection.addEventListener(type, () => { post({ op: 'event', pc, type, state: stateOf(connection) }) })
    }
    connection.onicecandidate = ({ candidate }) => { post({ op: 'candidate', pc, candidate: candidate?.toJSON() ?? null }) }
    connection.ondatachannel = ({ channel }) => {
      const { label, protocol, id: number, readyState: state } = channel
      hand({ op: 'announced', pc, channel: --announced, state, label, protocol, number }, channel)
    }
  }

  const openChannel = (request: Extract<RtcRequest, { op: 'channel' }>): void => {
    const channel = connections.get(request.pc)?.createDataChannel(request.label, request.options)
    if (channel !== undefined) hand({ op: 'opened', pc: request.pc, channel: request.channel, state: channel.readyState }, channel)
  }

  const answer = async (request: Extract<RtcRequest, { id: number }>): Promise<RtcReply> => {
    if (request.op === 'certificate') {
      const certificate = await RTCPeerConnection.generateCertificate(request.algorithm)
      const handle = certificates.push(certificate) - 1
      return { op: 'answer', id: request.id, certificate: { handle, expires: certificate.expires, fingerprints: certificate.getFingerprints() } }
    }
    const connection = connections.get(request.pc)
    if (connection === undefined) throw new Error('the connection is closed')
    const result = await (connection[request.method] as (argument?: unknown) => Promise<RTCSessionDescriptionInit | undefined>)(request.argument)
    const description = result === undefined ? {} : { description: { type: result.type, sdp: result.sdp ?? '' } }
    return { op: 'answer', id: request.id, state: stateOf(connection), ...description }
  }

  port.onmessage = ({ data }: MessageEvent<RtcRequest>) => {
    if (data.op === 'create') create(data.pc, data.configuration, data.certificates)
    else if (data.op === 'channel') openChannel(data)
    else if (data.op === 'send') forwarder.send(data.channel, data.data)
    else if (data.op === 'close-channel') forwarder.close(data.channel)
    else if (data.op === 'close') {
      connections.get(data.pc)?.close()
      connections.delete(data.pc)
      forwarder.drop(data.pc)
    } else {
      answer(data).then(post, (error: Error) => { post({ op: 'failure', id: data.id, name: error.name, message: error.message }) })
    }
  }
  return () => {
    port.close()
    for (const connection of connections.values()) connection.close()
  }
}
