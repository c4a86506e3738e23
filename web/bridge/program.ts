// What a span computes, as data: checked once when it is built, then run step by step by the kernels.
// Written by kwaainet/inference/program.py, where the steps are explained. Rule of the file: after `check` every step's
// sizes fit the memory they touch; what does not fit is refused by name.

import { EngineError, type Shape } from './engine.ts'

/** ggml's number of a weight's format, and the numbers and bytes of its blocks. */
const FORMATS: Record<string, { type: number, block: number, bytes: number }> = {
  F32: { type: 0, block: 1, bytes: 4 },
  F16: { type: 1, block: 1, bytes: 2 },
  BF16: { type: 30, block: 1, bytes: 2 },
  Q4_0: { type: 2, block: 32, bytes: 18 },
  Q4_1: { type: 3, block: 32, bytes: 20 },
  Q5_0: { type: 6, block: 32, bytes: 22 },
  Q5_1: { type: 7, block: 32, bytes: 24 },
  Q8_0: { type: 8, block: 32, bytes: 34 },
  Q2_K: { type: 10, block: 256, bytes: 84 },
  Q3_K: { type: 11, block: 256, bytes: 110 },
  Q4_K: { type: 12, block: 256, bytes: 144 },
  Q5_K: { type: 13, block: 256, bytes: 176 },
  Q6_K: { type: 14, block: 256, bytes: 210 }
}
const MAX_WIDTH = 2 ** 21
const MAX_STEPS = 2 ** 12 // of a block
const ACTIVATIONS = ['silu', 'gelu_tanh']

/** A weight as it was added: `rows` rows of `columns` numbers in ggml's format `type`. */
export interface Weight { name: string, type: number, rows: number, columns: number }

export type Step =
  | { op: 'rms_norm', x: string, weight: Weight, y: string, epsilon: number }
  | { op: 'matmul', x: string, weight: Weight, y: string, add: boolean }
  | { op: 'bias', y: string, bias: Weight }
  | { op: 'rope', x: string, cos: Weight, sin: Weight }
  | { op: 'attention', q: string, k: string, v: string, y: string, scale: number, window: number, softcap: number }
  | { op: 'gated', gate: string, up: string, activation: number }
  | { op: 'add', x: string, y: string }
  | Experts

/** `logits` say whom each token of `x` asks; `own` and `said` are for the tokens of one expert and what it says. */
export interface Experts {
  op: 'experts', x: string, y: string, logits: string, own: string, said: string, gate: string, up: string
  top: number, experts: Expert[], activation: number
}

export interface Expert { gate: Weight, up: Weight, down: Weight }

/**
 * Buffers are told by name: how many floats each has for one token. `x` is what goes through the blocks. Rotary tables
 * have no fewer than `positions` rows. Runs of `coarseFrom` tokens a row or more may round activations to 16 bits.
 */
export interface Program { buffers: Map<string, number>, weights: Map<string, Weight>, blocks: Step[][], positions: number, coarseFrom: number }

type Fields = Record<string, unknown>
type Sizes = ReadonlyMap<string, { byteLength: number }>

/** Read and check a program. Raises EngineError, of tensors that are missing or of another size too. */
export function readProgram (graph: Uint8Array, tensors: Sizes, shape: Shape): Program {
  let text: unknown
  try {
    text = JSON.parse(new TextDecoder().decode(graph))
  } catch {
    throw wrong('it is no JSON')
  }
  const top = fields(text, 'it')
  const buffers = new Map([['x', shape.hiddenSize]])
  for (const [name, width] of Object.entries(fields(top.buffers, 'buffers'))) buffers.set(name, whole(width, `buffer ${name}`, MAX_WIDTH))
  const weights = new Map<string, Weight>()
  for (const [name, entry] of Object.entries(fields(top.tensors, 'tensors'))) weights.set(name, weight(name, list(entry, name), tensors))
  const blocks = list(top.blocks, 'blocks').map(block => list(block, 'a block'))
  if (blocks.length !== shape.blocks) throw wrong(`it has ${blocks.length} blocks, not ${shape.blocks}`)
  const reader = new Reader(buffers, weights, shape)
  if (blocks.some(block => block.length > MAX_STEPS)) throw wrong(`a block has more than ${MAX_STEPS} steps`)
  const checked = blocks.map(block => block.map(step => reader.step(fields(step, 'a step'))))
  const tables = checked.flat().map(step => step.op === 'rope' ? step.cos.rows : Infinity)
  const coarseFrom = top.coarse_from === undefined ? Infinity : whole(top.coarse_from, 'coarse_from', 2 ** 30)
  return { buffers, weights, blocks: checked, positions: Math.min(...tables), coarseFrom }
}

function wrong (what: string): EngineError {
  return new EngineError('EngineError', `this is no program for the wasm engine: ${what}`)
}

function fields (value: unknown, what: string): Fields {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Fields
  throw wrong(`${what} should be an object`)
}

function list (value: unknown, what: string): unknown[] {
  if (Array.isArray(value)) return value
  throw wrong(`${what} should be a list`)
}

function whole (value: unknown, what: string, most: number, least = 1): number {
  if (Number.isInteger(value) && (value as number) >= least && (value as number) <= most) return value as number
  throw wrong(`${what} is ${String(value)}, not a whole number from ${least} to ${most}`)
}

function real (value: unknown, what: string): number {
  if (typeof value === 'number' && Number.isFinite(value)) return value
  throw wrong(`${what} is ${String(value)}, not a number`)
}

function weight (name: string, [format, rows, columns]: unknown[], tensors: Sizes): Weight {
  const known = Object.hasOwn(FORMATS, String(format)) ? FORMATS[String(format)] : undefined
  if (known === undefined) throw wrong(`the tensor ${name} has the format ${String(format)}; known are ${Object.keys(FORMATS).join(', ')}`)
  const height = whole(rows, `the rows of ${name}`, 2 ** 24)
  const width = whole(columns, `the columns of ${name}`, MAX_WIDTH)
  if (width % known.block !== 0) throw wrong(`the rows of ${name} are no whole blocks of ${known.block}`)
  const size = height * width / known.block * known.bytes
  const found = tensors.get(name)?.byteLength
  if (found !== size) throw new EngineError('EngineError', `the tensor ${name} has ${found ?? 'no'} bytes; the span needs ${size}`)
  return { name, type: known.type, rows: height, columns: width }
}

/** Checks one step at a time: operands that exist, and are as wide as the others ask for. */
class Reader {
  readonly #buffers: Map<string, number>
  readonly #weights: Map<string, Weight>
  readonly #shape: Shape

  constructor (buffers: Map<string, number>, weights: Map<string, Weight>, shape: Shape) {
    this.#buffers = buffers
    this.#weights = weights
    this.#shape = shape
  }

  step (step: Fields): Step {
    switch (step.op) {
      case 'rms_norm': return this.#norm(step)
      case 'matmul': return this.#matmul(step)
      case 'bias': return { op: 'bias', ...this.#wide({ y: step.y }, this.#vector(step.bias).columns), bias: this.#vector(step.bias) }
      case 'rope': return this.#rope(step)
      case 'attention': return this.#attention(step)
      case 'gated': return this.#gated(step)
      case 'add': return { op: 'add', ...this.#wide({ x: step.x, y: step.y }, this.#width(step.x)) }
      case 'experts': return this.#experts(step)
      default: throw wrong(`the step ${String(step.op)} is unknown`)
    }
  }

  #norm (step: Fields): Step {
    const weight = this.#vector(step.weight)
    const width = this.#width(step.x)
    if (width % weight.columns !== 0) throw wrong(`${weight.name} does not fit rows of ${width}`)
    const names = this.#wide({ x: step.x, y: step.y }, width)
    return { op: 'rms_norm', ...names, weight, epsilon: real(step.epsilon, 'epsilon') }
  }

  #matmul (step: Fields): Step {
    const weight = this.#weight(step.weight)
    const { x } = this.#wide({ x: step.x }, weight.columns)
    const { y } = this.#wide({ y: step.y }, weight.rows)
    if (x === y) throw wrong(`${weight.name} is multiplied in place`)
    return { op: 'matmul', x, weight, y, add: step.add === true }
  }

  #rope (step: Fields): Step {
    const [cos, sin] = [this.#weight(step.cos), this.#weight(step.sin)]
    const { headDim } = this.#shape
    const fits = cos.type === 0 && sin.type === 0 && cos.rows === sin.rows && cos.columns === sin.columns
    if (!fits || 2 * cos.columns > headDim) throw wrong(`${cos.name} does not fit heads of ${headDim}`)
    if (this.#width(step.x) % headDim !== 0) throw wrong(`${String(step.x)} is not whole heads of ${headDim}`)
    return { op: 'rope', x: String(step.x), cos, sin }
  }

  #attention (step: Fields): Step {
    const { kvHeads, headDim } = this.#shape
    const width = this.#width(step.q)
    if (width % (kvHeads * headDim) !== 0) throw wrong(`the queries' ${width} do not divide among ${kvHeads} heads of ${headDim}`)
    const wide = this.#wide({ q: step.q, y: step.y }, width)
    const narrow = this.#wide({ k: step.k, v: step.v }, kvHeads * headDim)
    return {
      op: 'attention', ...wide, ...narrow, scale: real(step.scale, 'scale'),
      window: whole(step.window, 'window', 2 ** 30, 0), softcap: real(step.softcap, 'softcap')
    }
  }

  #gated (step: Fields): Step {
    return { op: 'gated', ...this.#wide({ gate: step.gate, up: step.up }, this.#width(step.gate)), activation: this.#activation(step) }
  }

  #experts (step: Fields): Step {
    const experts = list(step.experts, 'experts').map(names => {
      const [gate, up, down] = list(names, 'an expert').map(name => this.#weight(name))
      if (gate === undefined || up === undefined || down === undefined) throw wrong('an expert has three weights')
      return { gate, up, down }
    })
    const wide = this.#wide({ x: step.x, y: step.y, own: step.own, said: step.said }, this.#width(step.x))
    const inner = this.#wide({ gate: step.gate, up: step.up }, this.#width(step.gate))
    for (const { gate, up, down } of experts) {
      const [outer, inside] = [this.#width(wide.x), this.#width(inner.gate)]
      const fits = gate.columns === outer && up.columns === outer && gate.rows === inside && up.rows === inside
      if (!fits || down.columns !== inside || down.rows !== outer) throw wrong(`the expert ${gate.name} does not fit`)
    }
    if (new Set(Object.values({ ...wide, ...inner })).size < 6) throw wrong('experts need six buffers')
    const { logits } = this.#wide({ logits: step.logits }, experts.length)
    const top = whole(step.top, 'top', experts.length)
    return { op: 'experts', ...wide, ...inner, logits, top, experts, activation: this.#activation(step) }
  }

  #activation (step: Fields): number {
    const activation = ACTIVATIONS.indexOf(String(step.activation))
    if (activation < 0) throw wrong(`the activation ${String(step.activation)} is unknown`)
    return activation
  }

  #width (name: unknown): number {
    const width = this.#buffers.get(String(name))
    if (width === undefined) throw wrong(`there is no buffer ${String(name)}`)
    return width
  }

  /** The names of buffers, all of which must have that width. */
  #wide<Key extends string> (names: Record<Key, unknown>, width: number): Record<Key, string> {
    for (const name of Object.values(names)) {
      if (this.#width(name) !== width) throw wrong(`the buffer ${String(name)} is ${this.#width(name)} wide, not ${width}`)
    }
    return names as Record<Key, string>
  }

  #weight (name: unknown): Weight {
    const weight = this.#weights.get(String(name))
    if (weight === undefined) throw wrong(`there is no tensor ${String(name)}`)
    return weight
  }

  #vector (name: unknown): Weight {
    const weight = this.#weight(name)
    if (weight.type !== 0 || weight.rows !== 1) throw wrong(`${weight.name} is not one row of F32`)
    return weight
  }
}
