// ChaCha20-Poly1305 in wasm for noise, which js-libp2p has itself in Node and not in browsers: each step of a session goes
// through the cipher four times, and small messages cost JavaScript's most.
// Rule of the file: the cipher only; the handshake's keys and hashes stay js-libp2p's own.
// A connection ends with its first forged message, so comparing tags tells a forger nothing, however long it takes.

import { ChaCha20Poly1305, newInstance } from '@chainsafe/as-chacha20poly1305'

type Bytes = Uint8Array
/** Bytes in one piece or several; js-libp2p's Uint8ArrayList is one. */
interface Pieces { subarray: () => Bytes }

const cipher = new ChaCha20Poly1305(newInstance())

/** The two of noise's functions that are called for every message. */
export const wasmCipher = {
  chaCha20Poly1305Encrypt: (plaintext: Pieces, nonce: Bytes, ad: Bytes, key: Bytes): Bytes => cipher.seal(key, nonce, plaintext.subarray(), ad),

  /** `target` may be where the ciphertext lies. */
  chaCha20Poly1305Decrypt (ciphertext: Pieces, nonce: Bytes, ad: Bytes, key: Bytes, target?: Bytes): Bytes {
    const plaintext = cipher.open(key, nonce, ciphertext.subarray(), ad, target)
    if (plaintext === null) throw new Error('a noise message is forged or out of order')
    return plaintext
  }
}
