// Data channels in the network worker: what one task sends is one message; a forwarded channel acts like a real one.

import assert from 'node:assert/strict'
import test from 'node:test'
import type { RtcReply, RtcRequest } from '../../web/bridge/rtc.ts'
import { type ChannelLike, ForwardedChannel, ShimChannel } from '../../web/bridge/rtc_channel.ts'
import { Forwarder } from '../../web/bridge/rtc_forward.ts'
import { settle, toHex } from './stream_pair.ts'

/** A data channel of the browser; `held` bytes have not left. */
class FakeChannel extends EventTarget implements ChannelLike {
  readyState: RTCDataChannelState = 'open'
  bufferedAmount = 0
  binaryType: BinaryType = 'blob'
  bufferedAmountLowThreshold = 0
  readonly sent: string[] = []
  slow = false
  onmessage: ((event: { data: ArrayBuffer }) => void) | null = null
  onbufferedamountlow: (() => void) | null = null

  send (data: Uint8Array | ArrayBuffer): void {
    if (this.readyState !== 'open') throw new Error('it is closed')
    this.sent.push(toHex(new Uint8Array(data as ArrayBuffer)))
    if (this.slow) this.bufferedAmount += data.byteLength
  }

  close (): void {
    this.readyState = 'closed'
    this.dispatchEvent(new Event('close'))
  }
}

function attached (): [ShimChannel, FakeChannel] {
  const channel = new ShimChannel('', '', null)
  const real = new FakeChannel()
  channel.attach(real)
  return [channel, real]
}

test('what is sent in one task is one message, in order', async () => {
  const [channel, real] = attached()
  channel.send(Uint8Array.of(1))
  channel.send(Uint8Array.of(2, 3))
  assert.deepEqual([real.sent, channel.bufferedAmount], [[], 3])
  await settle()
  channel.send(Uint8Array.of(4))
  await settle()
  assert.deepEqual([real.sent, channel.bufferedAmount], [['010203', '04'], 0])
})

test('a message holds no more than libp2p allows', async () => {
  const [channel, real] = attached()
  for (let index = 0; index < 3; index++) channel.send(new Uint8Array(10_000))
  await settle()
  assert.deepEqual(real.sent.map(text => text.length / 2), [10_000, 10_000, 10_000])
})

test('closing sends what was held; a channel that broke says so', async () => {
  const [channel, real] = attached()
  channel.send(Uint8Array.of(1))
  channel.close()
  assert.deepEqual([real.sent, real.readyState], [['01'], 'closed'])
  const errors: unknown[] = []
  channel.addEventListener('error', event => { errors.push((event as Event & { error: unknown }).error) })
  channel.send(Uint8Array.of(2))
  await settle()
  assert.equal(errors.length, 1)
})

/** A forwarded channel and the page's real one. */
function forwardedPair (): { far: FakeChannel, near: ForwardedChannel, forwarder: Forwarder } {
  const far = new FakeChannel()
  const forwarder = new Forwarder((reply: RtcReply) => {
    if (reply.op === 'changed') near.changed(reply.type, reply.state)
    else if (reply.op === 'message') near.arrived(reply.data)
    else if (reply.op === 'sent') near.sent(reply.bytes)
  })
  const near = new ForwardedChannel(7, 'open', (request: RtcRequest) => {
    if (request.op === 'send') forwarder.send(request.channel, request.data)
    else if (request.op === 'close-channel') forwarder.close(request.channel)
  })
  forwarder.keep(1, 7, far as unknown as RTCDataChannel)
  return { far, near, forwarder }
}

test('a forwarded channel sends, receives and closes', () => {
  const { far, near } = forwardedPair()
  const heard: string[] = []
  near.addEventListener('message', event => { heard.push(toHex(new Uint8Array((event as MessageEvent).data))) })
  near.addEventListener('close', () => { heard.push('close') })
  near.send(Uint8Array.of(1, 2))
  far.onmessage?.({ data: Uint8Array.of(3).buffer })
  near.close()
  assert.deepEqual([far.sent, heard, near.readyState, near.bufferedAmount], [['0102'], ['03', 'close'], 'closed', 0])
  assert.throws(() => { near.send(Uint8Array.of(1)) }, /closed/)
})

test('what a slow channel has not sent counts until it has', () => {
  const { far, near } = forwardedPair()
  far.slow = true
  let low = 0
  near.addEventListener('bufferedamountlow', () => { low++ })
  near.send(new Uint8Array(100_000))
  near.send(new Uint8Array(100_000))
  assert.deepEqual([near.bufferedAmount, low], [200_000, 0])
  far.bufferedAmount = 0
  far.onbufferedamountlow?.()
  assert.deepEqual([near.bufferedAmount, low], [0, 1])
})

test('a connection that was closed here closes its forwarded channels', () => {
  const { far, near, forwarder } = forwardedPair()
  forwarder.drop(2)
  assert.equal(near.readyState, 'open')
  forwarder.drop(1)
  assert.equal(near.readyState, 'closed')
  near.changed('open', 'open')
  near.send(Uint8Array.of(1))
  assert.deepEqual(far.sent, [])
})
