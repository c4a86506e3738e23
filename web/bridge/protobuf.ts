// The protobuf that framing needs: length-delimited fields, everything else skipped.
// Rule of the file: caps are the caller's; malformed bytes throw ProtocolError, nothing else.

import { fault } from './faults.ts'

export type Bytes = Uint8Array<ArrayBuffer>

const WIRE_VARINT = 0
const WIRE_FIXED64 = 1
const WIRE_BYTES = 2
const WIRE_FIXED32 = 5
const MAX_VARINT_BYTES = 7 // 49 bits: every length here is far below Number.MAX_SAFE_INTEGER

export function concat (...parts: Uint8Array[]): Bytes {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
  let offset = 0
  for (const part of parts) {
    out.set(part, offset)
    offset += part.length
  }
  return out
}

export function encodeVarint (value: number): Bytes {
  const out: number[] = []
  while (value > 127) {
    out.push((value % 128) | 128)
    value = Math.floor(value / 128)
  }
  out.push(value)
  return Uint8Array.from(out)
}

/** One length-delimited field. */
export function encodeField (number: number, value: Uint8Array): Bytes {
  return concat(encodeVarint((number << 3) | WIRE_BYTES), encodeVarint(value.length), value)
}

/** A varint at `offset`: its value and where it ends. */
export function decodeVarint (data: Uint8Array, offset: number): [value: number, end: number] {
  let value = 0
  for (let index = 0; index < MAX_VARINT_BYTES; index++) {
    const byte = data[offset + index]
    if (byte === undefined) throw fault('ProtocolError', 'a varint is cut off at the end of its message')
    value += (byte & 127) * 2 ** (7 * index)
    if (byte < 128) return [value, offset + index + 1]
  }
  throw fault('ProtocolError', `a varint has more than ${MAX_VARINT_BYTES} bytes`)
}

/** The length-delimited fields of a message, the last of each number (views, not copies). */
export function decodeFields (data: Uint8Array): Map<number, Uint8Array> {
  const fields = new Map<number, Uint8Array>()
  let offset = 0
  while (offset < data.length) {
    const [tag, start] = decodeVarint(data, offset)
    const [value, end] = decodeValue(data, start, tag % 8)
    if (value !== null) fields.set(Math.floor(tag / 8), value)
    offset = end
  }
  return fields
}

function decodeValue (data: Uint8Array, start: number, wire: number): [Uint8Array | null, number] {
  if (wire === WIRE_VARINT) return [null, decodeVarint(data, start)[1]]
  let end: number
  if (wire === WIRE_BYTES) {
    const [length, from] = decodeVarint(data, start)
    start = from
    end = from + length
  } else if (wire === WIRE_FIXED64 || wire === WIRE_FIXED32) {
    end = start + (wire === WIRE_FIXED64 ? 8 : 4)
  } else {
    throw fault('ProtocolError', `a field has wire type ${wire}, which messages do not use`)
  }
  if (end > data.length) throw fault('ProtocolError', `a field of ${end - start} bytes is cut off at ${data.length - start}`)
  return [wire === WIRE_BYTES ? data.subarray(start, end) : null, end]
}
