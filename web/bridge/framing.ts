// Hivemind's framing: the unary envelope (a delimited PersistentConnectionRequest) and the frames of
// a stream RPC (marker, 8-byte big-endian length, payload), as go-libp2p-daemon and hivemind write them.
// Between tabs there is a third frame, a credit without a payload: WebRTC has no windows of its own.
// Rule of the file: bytes in, bytes out; the only IO is the Reader's `exactly`.

import { FRAME_HEADER_SIZE, MAX_FRAME_SIZE, MAX_UNARY_SIZE } from '../worker/messages.ts'
import { fault } from './faults.ts'
import { type Bytes, concat, decodeFields, encodeField, encodeVarint } from './protobuf.ts'
import type { Reader } from './reader.ts'

const CALL_ID_SIZE = 16
const MAX_LENGTH_BYTES = 4 // of the varint before an envelope: 2 ** 28 is past every cap
const MESSAGE = 0
const ERROR = 1
const CREDIT = 2 // its length is the number of bytes that were taken

const ENVELOPE_ID = 1
const ENVELOPE_CALL = 3
const ENVELOPE_RESPONSE = 4
const CALL_PEER = 1
const CALL_PROTOCOL = 2
const CALL_DATA = 3
const RESPONSE_DATA = 1
const RESPONSE_ERROR = 2
const RPC_ERROR_MESSAGE = 1

const utf8 = new TextEncoder()
const text = new TextDecoder() // replaces what is not UTF-8: these texts are only shown

export interface UnaryRequest { callId: Bytes, protocol: string, body: Bytes }
export type UnaryResponse = { body: Bytes } | { error: string }
/** A frame of a stream RPC: a message, an error frame, whose empty text is the caller's end, or a credit. */
export type Frame = { body: Bytes } | { error: string } | { credit: number }

export function encodeRequest (callId: Uint8Array, peer: Uint8Array, protocol: string, body: Uint8Array): Bytes {
  const call = concat(encodeField(CALL_PEER, peer), encodeField(CALL_PROTOCOL, utf8.encode(protocol)), encodeField(CALL_DATA, body))
  return envelope(callId, ENVELOPE_CALL, call)
}

export function encodeResponse (callId: Uint8Array, response: UnaryResponse): Bytes {
  const inner = 'body' in response
    ? encodeField(RESPONSE_DATA, response.body)
    : encodeField(RESPONSE_ERROR, utf8.encode(response.error))
  return envelope(callId, ENVELOPE_RESPONSE, inner)
}

function envelope (callId: Uint8Array, field: number, inner: Uint8Array): Bytes {
  const message = concat(encodeField(ENVELOPE_ID, callId), encodeField(field, inner))
  if (message.length > MAX_UNARY_SIZE) {
    throw fault('LimitExceeded', `a unary message of ${message.length} bytes; at most ${MAX_UNARY_SIZE} are allowed`)
  }
  return concat(encodeVarint(message.length), message)
}

/** Read and check a unary request. The body is its own buffer, so it can be transferred. */
export async function readRequest (reader: Reader): Promise<UnaryRequest> {
  const [callId, call] = await readEnvelope(reader, ENVELOPE_CALL)
  const protocol = call.get(CALL_PROTOCOL)
  const body = call.get(CALL_DATA)
  if (protocol === undefined || body === undefined) throw fault('ProtocolError', 'a unary request lacks its protocol or its data')
  return { callId, protocol: text.decode(protocol), body: body.slice() }
}

/** Read the answer to the call `callId`. */
export async function readResponse (reader: Reader, callId: Uint8Array): Promise<UnaryResponse> {
  const [answered, response] = await readEnvelope(reader, ENVELOPE_RESPONSE)
  if (!callId.every((byte, index) => byte === answered[index])) throw fault('ProtocolError', 'a unary response answers another call')
  const error = response.get(RESPONSE_ERROR)
  if (error !== undefined) return { error: text.decode(error) }
  return { body: (response.get(RESPONSE_DATA) ?? new Uint8Array(0)).slice() }
}

async function readEnvelope (reader: Reader, field: number): Promise<[Bytes, Map<number, Uint8Array>]> {
  const fields = decodeFields(await reader.exactly(await readLength(reader)))
  const callId = fields.get(ENVELOPE_ID)
  const inner = fields.get(field)
  if (callId?.length !== CALL_ID_SIZE) throw fault('ProtocolError', `a call id has ${callId?.length ?? 0} bytes, not ${CALL_ID_SIZE}`)
  if (inner === undefined) throw fault('ProtocolError', `a unary message lacks field ${field}`)
  return [callId.slice(), decodeFields(inner)]
}

async function readLength (reader: Reader): Promise<number> {
  let length = 0
  for (let index = 0; index < MAX_LENGTH_BYTES; index++) {
    const byte = (await reader.exactly(1))[0]!
    length += (byte & 127) * 2 ** (7 * index)
    if (byte < 128) return check(length, MAX_UNARY_SIZE, 'unary message')
  }
  throw fault('LimitExceeded', `a unary message longer than ${MAX_UNARY_SIZE} bytes`)
}

export function encodeMessage (body: Uint8Array): Bytes {
  return encodeFrame(MESSAGE, body)
}

/** A callee's failure. */
export function encodeError (message: string): Bytes {
  return encodeFrame(ERROR, encodeField(RPC_ERROR_MESSAGE, utf8.encode(message)))
}

/** The caller's end: an error frame without a text. */
export function encodeEnd (): Bytes {
  return encodeFrame(ERROR, new Uint8Array(0))
}

/** That `bytes` of framed messages have been taken. */
export function encodeCredit (bytes: number): Bytes {
  const frame = new Uint8Array(FRAME_HEADER_SIZE)
  frame[0] = CREDIT
  new DataView(frame.buffer).setBigUint64(1, BigInt(bytes))
  return frame
}

function encodeFrame (marker: number, payload: Uint8Array): Bytes {
  check(payload.length, MAX_FRAME_SIZE, 'stream message')
  const frame = new Uint8Array(FRAME_HEADER_SIZE + payload.length)
  frame[0] = marker
  new DataView(frame.buffer).setBigUint64(1, BigInt(payload.length))
  frame.set(payload, FRAME_HEADER_SIZE)
  return frame
}

/** The next frame, or null when the stream ended between frames. `credited`: it may be a credit. */
export async function readFrame (reader: Reader, credited = false): Promise<Frame | null> {
  if (await reader.ended()) return null
  const header = await reader.exactly(FRAME_HEADER_SIZE)
  const marker = header[0]!
  if (marker !== MESSAGE && marker !== ERROR && !(credited && marker === CREDIT)) throw fault('ProtocolError', `a stream frame begins with ${marker}, not with 0 or 1`)
  const length = Number(new DataView(header.buffer).getBigUint64(1))
  if (marker === CREDIT) return { credit: length }
  const payload = await reader.exactly(check(length, MAX_FRAME_SIZE, 'stream message'))
  if (marker === MESSAGE) return { body: payload }
  return { error: text.decode(decodeFields(payload).get(RPC_ERROR_MESSAGE) ?? new Uint8Array(0)) }
}

function check (length: number, limit: number, what: string): number {
  if (length > limit) throw fault('LimitExceeded', `a ${what} of ${length} bytes; at most ${limit} are allowed`)
  return length
}
