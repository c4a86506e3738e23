// What a decode step gains where onnxruntime-web records its commands once and replays them (graph capture), on a page.
// Rule of the file: raw sessions, no engine; weights are inputs of the graph in buffers, so that every session of them
// has the same ones, and caches are fixed buffers, past and present in one, as in web/bridge/engine_webgpu.ts.

import type { InferenceSession, Tensor } from 'onnxruntime-web'
import { cacheNames, type Shape } from '../../web/bridge/engine.ts'
import { Gpu } from '../../web/bridge/gpu.ts'

type Ort = typeof import('onnxruntime-web')

export interface CaptureRequest {
  graph: string // base64
  /** name, numpy's dtype, shape; all are inputs */
  tensors: Array<[string, string, number[]]>
  shape: Shape
  capacity: number
  rounds: number
}

export interface Captured {
  /** Milliseconds of a step by its kind. */
  times: Record<string, number[]>
  /** Milliseconds until a session that captures is there, and until it has captured. */
  ready: number[]
  /** Largest difference of any answer from those without capture, and the most that these differ from what was put in. */
  difference: number
  largest: number
}

/** One row's decode: inputs and the output in buffers, which a session that captures must have. */
interface Slab { feeds: Record<string, Tensor>, fetches: Record<string, Tensor>, x: GPUBuffer, y: GPUBuffer, length: GPUBuffer, total: GPUBuffer }

/** Steps without capture, with it, and with it on two sets of caches in turns. */
export async function capture (request: CaptureRequest, random: (dtype: string, dims: number[]) => Uint8Array): Promise<Captured> {
  const ort: Ort = 'Suspending' in WebAssembly ? await import('onnxruntime-web/jspi') : await import('onnxruntime-web/webgpu')
  ort.env.wasm.wasmPaths = `${location.origin}/ort/`
  ort.env.wasm.numThreads = 1
  const { device } = await Gpu.open(true)
  const page = new Page(ort, device, request)
  for (const [name, dtype, dims] of request.tensors) page.weight(name, dtype, dims, random(dtype, dims))
  const plain = await page.session(false)
  const [first, second, third] = [page.slab(), page.slab(), page.slab()]
  const ready: number[] = []
  const sessions: InferenceSession[] = []
  for (const slab of [first, second]) {
    const started = performance.now()
    const session = await page.session(true)
    await page.step(session, slab, 0, true) // the first runs, and is recorded
    ready.push(performance.now() - started)
    sessions.push(session)
  }
  const [one, other] = sessions as [InferenceSession, InferenceSession]
  const times: Record<string, number[]> = { without: [], one: [], two: [] }
  let [difference, largest] = [0, 0]
  await page.step(plain, third, 0, false)
  for (let round = 1; round <= request.rounds; round++) {
    const took = async (kind: string, work: () => Promise<Float32Array>): Promise<Float32Array> => {
      const started = performance.now()
      const y = await work()
      times[kind]!.push(performance.now() - started)
      return y
    }
    const wanted = await took('without', async () => await page.step(plain, third, round, false))
    for (const found of [
      await took('one', async () => await page.step(one, first, round, true)),
      await took('two', async () => await page.step(other, second, round, true))
    ]) {
      wanted.forEach((value, index) => {
        const distance = Math.abs(value - (found[index] ?? NaN))
        if (!(distance <= difference)) difference = distance
        largest = Math.max(largest, Math.abs(value - input(index, round)))
      })
    }
  }
  for (const session of [plain, ...sessions]) await session.release()
  device.destroy()
  return { times, ready, difference, largest }
}

function input (index: number, position: number): number {
  return Math.sin(index * 1.7 + position)
}

class Page {
  readonly #ort: Ort
  readonly #device: GPUDevice
  readonly #request: CaptureRequest
  readonly #weights: Record<string, Tensor> = {}
  readonly #read: GPUBuffer

  constructor (ort: Ort, device: GPUDevice, request: CaptureRequest) {
    [this.#ort, this.#device, this.#request] = [ort, device, request]
    this.#read = device.createBuffer({ size: 4 * request.shape.hiddenSize, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST })
  }

  weight (name: string, dtype: string, dims: number[], data: Uint8Array): void {
    const buffer = this.#buffer(data.byteLength)
    this.#device.queue.writeBuffer(buffer, 0, data as BufferSource)
    this.#weights[name] = this.#tensor(buffer, dtype as 'float32', dims)
  }

  async session (enableGraphCapture: boolean): Promise<InferenceSession> {
    const { graph, shape } = this.#request
    const onDevice = [...cacheNames(shape, 'present'), ...enableGraphCapture ? ['y'] : []]
    return await this.#ort.InferenceSession.create(Uint8Array.from(atob(graph), letter => letter.charCodeAt(0)), {
      executionProviders: [{ name: 'webgpu', device: this.#device }],
      enableGraphCapture,
      freeDimensionOverrides: enableGraphCapture ? { batch: 1, tokens: 1 } : {},
      preferredOutputLocation: Object.fromEntries(onDevice.map(name => [name, 'gpu-buffer' as const]))
    })
  }

  slab (): Slab {
    const { shape, capacity } = this.#request
    const { kvHeads, headDim, hiddenSize } = shape
    const [x, y] = [this.#buffer(4 * hiddenSize), this.#buffer(4 * hiddenSize)]
    const [length, total] = [this.#buffer(16), this.#buffer(16)]
    const wide = [1, 1, hiddenSize]
    const feeds: Slab['feeds'] = {
      x: this.#tensor(x, 'float32', wide), seqlens_k: this.#tensor(length, 'int32', [1]), total_seq: this.#tensor(total, 'int32', []), ...this.#weights
    }
    const fetches: Slab['fetches'] = { y: this.#tensor(y, 'float32', wide) }
    const presents = cacheNames(shape, 'present')
    cacheNames(shape, 'past').forEach((name, index) => {
      const cache = this.#tensor(this.#buffer(4 * kvHeads * capacity * headDim), 'float32', [1, kvHeads, capacity, headDim])
      feeds[name] = fetches[presents[index] as string] = cache
    })
    return { feeds, fetches, x, y, length, total }
  }

  /** One token at a position; without capture as the engine does it, from and to the processor. */
  async step (session: InferenceSession, { feeds, fetches, x, y, length, total }: Slab, position: number, captured: boolean): Promise<Float32Array> {
    const { hiddenSize } = this.#request.shape
    const { Tensor } = this.#ort
    const hidden = Float32Array.from({ length: hiddenSize }, (_, index) => input(index, position))
    const [last, count] = [Int32Array.of(position), Int32Array.of(position + 1)]
    if (!captured) {
      const own = { x: new Tensor('float32', hidden, [1, 1, hiddenSize]), seqlens_k: new Tensor('int32', last, [1]), total_seq: new Tensor('int32', count, []) }
      const answer = await session.run({ ...feeds, ...own }, { ...fetches, y: null })
      return answer.y?.data as Float32Array
    }
    const { queue } = this.#device
    queue.writeBuffer(x, 0, hidden)
    queue.writeBuffer(length, 0, last)
    queue.writeBuffer(total, 0, count)
    const run = session.run(feeds, fetches)
    await hold(Object.values(fetches).map(({ gpuBuffer }) => gpuBuffer))
    await run
    const encoder = this.#device.createCommandEncoder()
    encoder.copyBufferToBuffer(y, 0, this.#read, 0, 4 * hiddenSize)
    queue.submit([encoder.finish()])
    await this.#read.mapAsync(GPUMapMode.READ)
    const found = new Float32Array(this.#read.getMappedRange().slice(0))
    this.#read.unmap()
    return found
  }

  #tensor (buffer: GPUBuffer, dataType: 'float32' | 'int32', dims: number[]): Tensor {
    return this.#ort.Tensor.fromGpuBuffer(buffer, { dataType, dims })
  }

  #buffer (size: number): GPUBuffer {
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST
    return this.#device.createBuffer({ size: Math.max(16, Math.ceil(size / 4) * 4), usage })
  }
}

/**
 * onnxruntime-web 1.30 forgets what it calls an output's buffer after a run, though a session that captures has it bound for
 * good, and fails in the next one. Its note of that buffer is there while a run goes on: let it be counted as one of its own.
 */
async function hold (buffers: GPUBuffer[]): Promise<void> {
  const left = new Set(buffers)
  for (let turn = 0; left.size > 0 && turn < 100_000; turn++) {
    await null
    for (const buffer of left) {
      const [note] = Object.getOwnPropertySymbols(buffer)
      if (note === undefined) continue
      const count = (buffer as unknown as Record<symbol, [number, number]>)[note]
      if (count !== undefined) count[1] = NaN
      left.delete(buffer)
    }
  }
}
