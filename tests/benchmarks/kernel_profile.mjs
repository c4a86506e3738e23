// Products a second of web/kernels by format and rows, beside what this processor reaches of the instructions they are
// made of, for tests/benchmarks/kernel_profile.py. node kernel_profile.mjs ROUNDS LONG (rows of a prompt whose activations
// are rounded to two digits); answers a line of JSON.
// Processor time; peaks and kernels take turns, and shares are medians of the turns: the processor's pace changes.

import { COARSE, Heap, WORDS } from '../../web/bridge/kernel.ts'

const FORMATS = {
  Q4_0: [2, 32, 18], Q4_1: [3, 32, 20], Q5_0: [6, 32, 22], Q5_1: [7, 32, 24], Q8_0: [8, 32, 34],
  Q2_K: [10, 256, 84], Q3_K: [11, 256, 110], Q4_K: [12, 256, 144], Q5_K: [13, 256, 176], Q6_K: [14, 256, 210],
  F32: [0, 1, 4], F16: [1, 1, 2]
}
const FINE_WORDS = ['Q4_0', 'Q4_1', 'Q2_K', 'Q3_K', 'Q4_K'] // see matmul.c
const [OUTPUTS, COLUMNS, ROWS] = [768, 768, [1, 16, 128]]
const READ = 2 ** 27 // bytes, beyond what caches hold
const PEAK = 100_000 // times twelve instructions
const WORK = 5e7 // products in a turn
const [rounds, LONG] = process.argv.slice(2).map(Number)
const heap = await Heap.open()
const k = heap.kernels

/** Units a nanosecond. */
function pace (units, work) {
  const start = process.cpuUsage()
  work()
  const { user, system } = process.cpuUsage(start)
  return units / (user + system) / 1000
}

const plain = heap.copy(new Uint8Array(READ))
const peaks = {
  read: () => pace(READ, () => k.read_all(plain, READ)),
  dot: () => pace(12 * PEAK, () => k.dot_peak(PEAK)),
  word: () => pace(12 * PEAK, () => k.word_peak(PEAK)),
  madd: () => pace(12 * PEAK, () => k.madd_peak(PEAK))
}
const median = values => values.sort((a, b) => a - b)[values.length >> 1]
for (let round = 0; round < 3; round++) for (const peak of Object.values(peaks)) peak()

function product ([type, block, bytes], rows, words) {
  const asked = type + (rows >= LONG ? COARSE : 0) + (words ? WORDS : 0)
  const size = OUTPUTS * COLUMNS / block * bytes
  // numbers of a usual size: floats are small, scales of blocks are half floats of about 2e-3
  const weights = heap.copy(type > 1
    ? Uint8Array.from({ length: size }, (_, at) => at % bytes % 2 === 1 ? 0x18 : at * 197 >> 3 & 0x1f)
    : type === 0 ? new Uint8Array(Float32Array.from({ length: size / 4 }, (_, at) => Math.sin(at)).buffer)
    : Uint8Array.from({ length: size }, (_, at) => at % 2 === 1 ? 0x28 : at & 255))
  const x = heap.copy(new Uint8Array(Float32Array.from({ length: rows * COLUMNS }, (_, at) => Math.sin(at * 1.7)).buffer))
  const [y, scratch] = [heap.allocate(rows * OUTPUTS * 4), heap.allocate(k.matmul_scratch())]
  const prepared = heap.allocate(k.prepared_bytes(asked, rows, COLUMNS))
  const times = Math.ceil(WORK / (rows * OUTPUTS * COLUMNS))
  const run = () => pace(times * rows * OUTPUTS * COLUMNS, () => {
    for (let time = 0; time < times; time++) {
      k.prepare(asked, x, rows, COLUMNS, prepared)
      k.matmul(asked, weights, COLUMNS, x, prepared, rows, y, OUTPUTS, scratch, 0, OUTPUTS)
    }
  })
  return { run, release: () => { for (const address of [weights, x, y, scratch, prepared]) heap.release(address) } }
}

const kernels = {}
for (const [name, format] of Object.entries(FORMATS)) {
  for (const rows of ROWS) {
    const coarse = rows >= LONG && format[0] >= 2 && name !== 'Q8_0'
    for (const words of coarse || (rows > 1 && FINE_WORDS.includes(name)) ? [false, true] : [false]) {
      const { run, release } = product(format, rows, words)
      for (let warm = 0; warm < 3; warm++) run()
      const turns = Array.from({ length: rounds }, () => ({ products: run(), dot: peaks.dot(), word: peaks.word(), madd: peaks.madd() }))
      // what one number needs at least: a quarter of a multiply-add, an 8th of a sum for each word, or a 16th of a dot for each digit
      const digits = coarse ? 2 : rows === 1 && name === 'Q8_0' ? 4 : 3
      const most = ({ dot, word, madd }) => format[0] < 2 ? 4 * madd : words ? 8 * word / (coarse ? 1 : 2) : 16 * dot / digits
      kernels[`${name}${words ? ', words' : ''} ${rows}`] = { pace: median(turns.map(turn => turn.products)), share: median(turns.map(turn => turn.products / most(turn))) }
      release()
    }
  }
}
const found = Object.entries(peaks).map(([name, peak]) => [name, median(Array.from({ length: rounds }, peak))])
console.log(JSON.stringify({ ...Object.fromEntries(found), kernels }))
