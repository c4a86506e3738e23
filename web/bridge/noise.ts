// A noise that finds out without an exception that no further message has come: js-libp2p's throws a new one behind
// each message, on every level of encryption, and what an exception costs is the stack that it remembers.
// Rule of the file: what is read stays js-libp2p's; only how it is told that there is too little to read changes.

const SHORT = new RangeError('the length of a noise message has not come') // its decoder waits for more when it sees one

interface Bytes { length: number, subarray: (start: number, end: number) => Uint8Array }
type Secure = (...options: any[]) => Promise<{ connection: object }>

/** The factory of `make`, whose connections read as said above. */
export function calm<Encrypter extends { secureInbound: Secure, secureOutbound: Secure }, Components> (
  make: (components: Components) => Encrypter
): (components: Components) => Encrypter {
  return components => {
    const encrypter = make(components)
    for (const side of ['secureInbound', 'secureOutbound'] as const) {
      const secure: Secure = encrypter[side].bind(encrypter)
      encrypter[side] = async (...options) => {
        const secured = await secure(...options)
        const { decoder } = secured.connection as { decoder: { lengthDecoder: (data: Bytes) => number } }
        decoder.lengthDecoder = lengthOf
        return secured
      }
    }
    return encrypter
  }
}

/** Noise's length, 16 bits with the higher byte first. */
function lengthOf (data: Bytes): number {
  if (data.length < 2) throw SHORT
  const [high, low] = data.subarray(0, 2)
  return high! * 256 + low!
}
