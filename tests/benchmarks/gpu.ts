// A page that times a span of random weights on the graphics device, and what its memory gives at best.
// Rule of the file: the engine is the tab's own; what is timed is a whole run, from the states given to those read back.

import { createEngine, type JsEngine, type Shape } from '../../web/bridge/engine.ts'
import { capture, type CaptureRequest } from './gpu_capture.ts'

interface Request {
  graph: string // base64
  /** name, numpy's dtype, shape */
  tensors: Array<[string, string, number[]]>
  shape: Shape
  /** Positions of a prompt, which is also what decode steps find in the cache. */
  prompt: number
  rounds: number
}

interface Device { name: string, software: boolean, half: boolean }

const READ_BYTES = 256 << 20
const WORKGROUP = 256
const SUM = `
@group(0) @binding(0) var<storage, read> data: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> sums: array<f32>;
@compute @workgroup_size(${WORKGROUP})
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  var total = vec4<f32>();
  for (var at = id.x; at < arrayLength(&data); at += groups.x * ${WORKGROUP}) { total += data[at]; }
  sums[id.x] = dot(total, vec4<f32>(1.0));
}`

/** The adapter a tab would take; null where there is none. */
async function device (): Promise<Device | null> {
  const adapter = await navigator.gpu?.requestAdapter({ powerPreference: 'high-performance' })
  if (adapter == null) return null
  const { vendor, architecture, device, description, isFallbackAdapter } = adapter.info
  const name = [description || device || vendor, architecture].filter(word => word !== '').join(', ')
  return { name, software: isFallbackAdapter || architecture === 'swiftshader', half: adapter.features.has('shader-f16') }
}

/** Bytes per second at which a kernel that does nothing else reads memory; the best of some tries. */
async function bandwidth (tries: number, bytes = READ_BYTES): Promise<number> {
  const adapter = await navigator.gpu.requestAdapter({ powerPreference: 'high-performance' })
  if (adapter === null) throw new Error('no WebGPU adapter')
  const { maxStorageBufferBindingSize, maxBufferSize } = adapter.limits
  const size = Math.min(bytes, maxStorageBufferBindingSize, maxBufferSize)
  const gpu = await adapter.requestDevice({ requiredLimits: { maxStorageBufferBindingSize, maxBufferSize } })
  const groups = 1024
  const data = gpu.createBuffer({ size, usage: GPUBufferUsage.STORAGE })
  const sums = gpu.createBuffer({ size: 4 * groups * WORKGROUP, usage: GPUBufferUsage.STORAGE })
  const pipeline = gpu.createComputePipeline({ layout: 'auto', compute: { module: gpu.createShaderModule({ code: SUM }) } })
  const entries = [data, sums].map((buffer, binding) => ({ binding, resource: { buffer } }))
  const bindings = gpu.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries })
  let best = 0
  for (let turn = 0; turn <= tries; turn++) { // the first also compiles
    const encoder = gpu.createCommandEncoder()
    const repeats = 8 // so that starting the work does not count
    for (let repeat = 0; repeat < repeats; repeat++) {
      const pass = encoder.beginComputePass()
      pass.setPipeline(pipeline)
      pass.setBindGroup(0, bindings)
      pass.dispatchWorkgroups(groups)
      pass.end()
    }
    await gpu.queue.onSubmittedWorkDone()
    const started = performance.now()
    gpu.queue.submit([encoder.finish()])
    await gpu.queue.onSubmittedWorkDone()
    if (turn > 0) best = Math.max(best, repeats * size / (performance.now() - started) * 1000)
  }
  gpu.destroy()
  return best
}

/** Milliseconds of every decode step and of every prompt. */
async function time (request: Request): Promise<{ decode: number[], prefill: number[] }> {
  const engine = await createEngine({ backend: 'webgpu', ortUrl: `${location.origin}/ort/` })
  for (const [name, dtype, dims] of request.tensors) await engine.addTensor(name, random(dtype, dims))
  await engine.build(Uint8Array.from(atob(request.graph), letter => letter.charCodeAt(0)), request.shape)
  const { prompt, rounds, shape } = request
  const slab = await engine.openSlab(1, prompt + rounds + 2)
  const runs = async (tokens: number, first: number, step: number): Promise<number[]> => {
    const times: number[] = []
    const hidden = Float32Array.from({ length: tokens * shape.hiddenSize }, (_, index) => Math.sin(index))
    for (let turn = 0; turn < rounds + 2; turn++) { // two to warm up
      const started = performance.now()
      await run(engine, slab, first + turn * step, tokens, hidden, shape)
      if (turn > 1) times.push(performance.now() - started)
    }
    return times
  }
  const prefill = await runs(prompt, 0, 0)
  const decode = await runs(1, prompt, 1)
  await engine.close()
  return { decode, prefill }
}

async function run (engine: JsEngine, slab: number, length: number, tokens: number, hidden: Float32Array, shape: Shape): Promise<void> {
  const y = await engine.run(slab, { firstRow: 0, lengths: [length], first: 0, end: shape.blocks }, tokens, hidden)
  if (!y.every(Number.isFinite)) throw new Error('the device computed what is not finite')
}

/** Small numbers in bulk: quants are any bytes, all else stays near zero. */
function random (dtype: string, dims: number[]): Uint8Array {
  const count = dims.reduce((product, size) => product * size, 1)
  if (dtype === 'uint8') return Uint8Array.from({ length: count }, (_, index) => (index * 37 + (index >> 8)) & 255)
  if (dtype === 'float16') return new Uint8Array(new Uint16Array(count).fill(0x2000).buffer) // 2^-7
  return new Uint8Array(Float32Array.from({ length: count }, (_, index) => Math.sin(index) / 64).buffer)
}

Object.assign(globalThis, { device, bandwidth, time, capture: async (request: CaptureRequest) => await capture(request, random) })
