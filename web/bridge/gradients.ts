// The Gradients port's half in the node worker: blocks run forward and backward on onnxruntime's WebAssembly build.
// Rule of the file: what is trained with has a module and a heap of its own, made when it is wanted and left to the
// garbage collector as a whole: a heap never shrinks, and serving must not pay for what training once took.
//
// Weights are inputs of each run, addresses in the heap: the session holds no copy of them, and one session serves all blocks.

import { EngineError } from './engine.ts'
import { describe } from './faults.ts'
import { createSession, FLOAT, type Heap, loadModule, Use } from './ort_wasm.ts'

/** A float32 array: its name among the graph's inputs, its values row by row, its dimensions. */
export type Input = [name: string, data: Float32Array, dims: number[]]

/** What browser/gradients.py holds. Calls never overlap; arrays belong to their receiver. */
export interface JsGradients {
  build: (forward: Uint8Array, backward: Uint8Array) => Promise<void>
  addWeight: (block: number, input: Input) => void
  dropBlock: (block: number) => void
  /** The output `y` (forward) or `dx` (backward), shaped like the first of `inputs`. */
  run: (output: string, block: number, inputs: Input[]) => Promise<Float32Array>
}

interface Weight { name: string, address: number, dims: number[] }

/** A module with nothing in it yet. Raises EngineError when this browser cannot run it. */
export async function createGradients (ortUrl: string, threads: number): Promise<JsGradients> {
  return new Gradients(await guard('onnxruntime-web cannot start to train', async () => await loadModule(ortUrl, threads)))
}

async function guard<T> (what: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    throw error instanceof EngineError ? error : new EngineError('EngineError', `${what}: ${describe(error)}`)
  }
}

class Gradients implements JsGradients {
  readonly #heap: Heap
  readonly #sessions = new Map<string, number>()
  readonly #blocks = new Map<number, Weight[]>()

  constructor (heap: Heap) {
    this.#heap = heap
  }

  async build (forward: Uint8Array, backward: Uint8Array): Promise<void> {
    await guard('onnxruntime cannot build the gradients', async () => {
      this.#sessions.set('y', await createSession(this.#heap, forward))
      this.#sessions.set('dx', await createSession(this.#heap, backward))
    })
  }

  addWeight (block: number, [name, data, dims]: Input): void {
    const weights = this.#blocks.get(block) ?? []
    this.#blocks.set(block, weights)
    weights.push({ name, address: this.#heap.copy(bytes(data)), dims })
  }

  dropBlock (block: number): void {
    for (const { address } of this.#blocks.get(block) ?? []) this.#heap.module._free(address)
    this.#blocks.delete(block)
  }

  async run (output: string, block: number, inputs: Input[]): Promise<Float32Array> {
    return await guard('onnxruntime cannot run the gradients', async () => {
      const session = this.#sessions.get(output)
      const weights = this.#blocks.get(block)
      if (session === undefined || weights === undefined) throw new EngineError('EngineError', `block ${block} is not loaded, or there is no graph`)
      return await this.#run(session, output, weights, inputs)
    })
  }

  async #run (session: number, output: string, weights: Weight[], inputs: Input[]): Promise<Float32Array> {
    const heap = this.#heap
    const use = new Use(heap)
    const text = (name: string): number => use.memory(heap.text(name))
    try {
      const [, { length }, dims] = inputs[0] as Input
      const y = use.memory(heap.allocate(length * Float32Array.BYTES_PER_ELEMENT))
      const names = [...inputs.map(([name]) => name), ...weights.map(({ name }) => name)].map(text)
      const tensors = [
        ...inputs.map(([, data, dims]) => use.tensor(FLOAT, use.memory(heap.copy(bytes(data))), dims)),
        ...weights.map(({ address, dims }) => use.tensor(FLOAT, address, dims))
      ]
      const code = await heap.module._OrtRun(
        session, use.memory(heap.pointers(names)), use.memory(heap.pointers(tensors)), tensors.length,
        use.memory(heap.pointers([text(output)])), 1, use.memory(heap.pointers([use.tensor(FLOAT, y, dims)])), 0)
      heap.check(code === 0)
      return heap.floats(y, length).slice()
    } finally {
      use.end()
    }
  }
}

function bytes ({ buffer, byteOffset, byteLength }: Float32Array): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength)
}
