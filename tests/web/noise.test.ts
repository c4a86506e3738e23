// What noise's connections do between messages, with js-libp2p's own noise on both ends.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { generateKeyPair } from '@libp2p/crypto/keys'
import { noise, pureJsCrypto } from '@libp2p/noise'
import { multiaddrConnectionPair } from '@libp2p/utils'
import { calm } from '../../web/bridge/noise.ts'
import { wasmCipher } from '../../web/bridge/noise_cipher.ts'

const silent = Object.assign(() => {}, { error () {}, trace () {}, newScope: () => silent }) as any
const upgrader = { getStreamMuxers: () => new Map() }
const logger = { forComponent: () => silent }

/** Both ends of a connection that is encrypted, each by a factory of its own, and the bytes the far one hears. */
async function secured (...make: [(components: any) => any, (components: any) => any]) {
  const [near, far] = multiaddrConnectionPair()
  const [client, server] = await Promise.all(make.map(async make => make({ upgrader, logger, privateKey: await generateKeyPair('Ed25519') })))
  const [{ connection: out }, { connection: back }] = await Promise.all([client.secureOutbound(near), server.secureInbound(far)])
  const heard: number[] = []
  back.addEventListener('message', ({ data }: any) => { heard.push(...data.subarray()) })
  return { out, far, heard }
}

/** How many RangeErrors `work` makes. */
async function rangeErrors (work: () => Promise<void>): Promise<number> {
  const own = globalThis.RangeError
  let count = 0
  globalThis.RangeError = new Proxy(own, {
    apply: (make, self, words: [string]) => { count++; return Reflect.apply(make, self, words) },
    construct: (make, words) => { count++; return Reflect.construct(make, words) }
  })
  try {
    await work()
  } finally {
    globalThis.RangeError = own
  }
  return count
}

async function until (arrived: () => boolean): Promise<void> {
  while (!arrived()) await new Promise(resolve => setImmediate(resolve))
}

test('no exception is made behind a message, as js-libp2p does', async () => {
  for (const [make, expected] of [[noise(), 3], [calm(noise()), 0]] as const) {
    const { out, heard } = await secured(make, make)
    const made = await rangeErrors(async () => {
      for (let count = 1; count <= 3; count++) {
        out.send(Uint8Array.of(count, 7))
        await until(() => heard.length === 2 * count)
      }
    })
    assert.deepEqual(heard, [1, 7, 2, 7, 3, 7])
    assert.equal(made, expected)
  }
})

test('messages are read whole though their bytes come one by one', async () => {
  const { out, far, heard } = await secured(calm(noise()), calm(noise()))
  const dispatch = far.dispatchEvent.bind(far)
  far.dispatchEvent = (event: any) => {
    if (event.type !== 'message') return dispatch(event)
    for (const byte of event.data.subarray()) dispatch(Object.assign(new Event('message'), { data: Uint8Array.of(byte) }))
    return true
  }
  out.send(Uint8Array.of(1, 2, 3))
  out.send(new Uint8Array(300).fill(9))
  await until(() => heard.length === 303)
  assert.deepEqual(heard, [1, 2, 3, ...new Array(300).fill(9)])
})

test('it understands js-libp2p as it comes, with the cipher of the tab', async () => {
  const ours = calm(noise({ crypto: { ...pureJsCrypto, ...wasmCipher } }))
  for (const [near, far] of [[ours, noise()], [noise(), ours], [ours, ours]] as const) {
    const { out, heard } = await secured(near, far)
    const long = Array.from({ length: 70_000 }, (_, index) => index % 251) // more than a message of noise holds
    out.send(Uint8Array.from(long))
    out.send(Uint8Array.of(1, 2))
    await until(() => heard.length === long.length + 2)
    assert.deepEqual(heard, [...long, 1, 2])
  }
})
