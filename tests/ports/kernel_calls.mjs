// Calls kernels of web/kernels as told on standard input, for tests/ports/test_kernels.py.
// A call is { kernel, args, results }: an argument is a number, or { bytes } in base64, which is copied into the
// memory; `results` are the places of those whose bytes are wanted back. With PLAIN=1 the build without relaxed SIMD.

import { text } from 'node:stream/consumers'

if (process.env.PLAIN === '1') WebAssembly.validate = () => false
const { Heap } = await import('../../web/bridge/kernel.ts')
const heap = await Heap.open()
const answers = JSON.parse(await text(process.stdin)).map(({ kernel, args, results }) => {
  const data = args.map(argument => typeof argument === 'number' ? null : Buffer.from(argument.bytes, 'base64'))
  const values = args.map((argument, index) => data[index] === null ? argument : heap.copy(data[index]))
  heap.kernels[kernel](...values)
  const answer = results.map(index => {
    const floats = heap.floats(values[index], data[index].byteLength / 4)
    return Buffer.from(floats.buffer, floats.byteOffset, floats.byteLength).toString('base64')
  })
  values.forEach((value, index) => { if (data[index] !== null) heap.release(value) })
  return answer
})
process.stdout.write(JSON.stringify(answers))
