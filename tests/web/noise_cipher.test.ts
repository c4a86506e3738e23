// The cipher of noise in wasm makes and takes the same bytes as js-libp2p's own, and nothing forged.

import assert from 'node:assert/strict'
import test from 'node:test'
import { pureJsCrypto } from '@libp2p/noise'
import { wasmCipher } from '../../web/bridge/noise_cipher.ts'

const KEY = Uint8Array.from({ length: 32 }, (_, index) => index)
const NONCE = Uint8Array.of(0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0)
const SIZES = [0, 1, 63, 64, 65, 2500, 65519] // the last is noise's longest

test('it agrees with the cipher it replaces, with and without associated data', () => {
  for (const size of SIZES) {
    const plaintext = Uint8Array.from({ length: size }, (_, index) => index % 251)
    for (const ad of [new Uint8Array(0), new Uint8Array(32).fill(9)]) {
      const sealed = wasmCipher.chaCha20Poly1305Encrypt(plaintext, NONCE, ad, KEY).subarray()
      assert.deepEqual(sealed, pureJsCrypto.chaCha20Poly1305Encrypt(plaintext, NONCE, ad, KEY).subarray())
      assert.deepEqual(wasmCipher.chaCha20Poly1305Decrypt(sealed, NONCE, ad, KEY).subarray(), plaintext)
    }
  }
})

test('what is forged, cut short or of another key is refused', () => {
  const ad = new Uint8Array(0)
  const sealed = wasmCipher.chaCha20Poly1305Encrypt(new Uint8Array(100), NONCE, ad, KEY).subarray()
  const refused = (message: Uint8Array, key = KEY): void => {
    assert.throws(() => wasmCipher.chaCha20Poly1305Decrypt(message, NONCE, ad, key), /forged/)
  }
  for (const place of [0, 50, sealed.length - 1]) refused(sealed.map((byte, index) => index === place ? byte ^ 1 : byte))
  for (const size of [0, 5, 15, 16, sealed.length - 1]) refused(sealed.subarray(0, size))
  refused(sealed, KEY.map(byte => byte ^ 1))
})
