// The graphics device of the engine: our own, so that its features are our choice and its loss is seen.
// Rule of the file: WebGPU only, nothing of onnxruntime.

import { EngineError } from './engine.ts'

// onnxruntime's attention kernels compute wrongly from 32 new positions on where subgroups are smaller than this.
const SAFE_SUBGROUP_SIZE = 8
const WANTED_LIMITS = [
  'maxBufferSize', 'maxStorageBufferBindingSize', 'maxStorageBuffersPerShaderStage', 'maxComputeWorkgroupStorageSize',
  'maxComputeInvocationsPerWorkgroup', 'maxComputeWorkgroupSizeX', 'maxComputeWorkgroupSizeY', 'maxComputeWorkgroupSizeZ',
  'maxComputeWorkgroupsPerDimension'
] as const

/** A device, and whether and why it has gone away. */
export class Gpu {
  readonly device: GPUDevice
  readonly subgroups: boolean
  #loss: EngineError | null = null
  readonly #lost: Promise<never>

  private constructor (device: GPUDevice) {
    this.device = device
    this.subgroups = device.features.has('subgroups')
    this.#lost = device.lost.then(({ reason, message }) => {
      this.#loss = new EngineError('DeviceLost', `the graphics device is lost (${reason}): ${message || 'no reason given'}`)
      throw this.#loss
    })
    this.#lost.catch(() => {}) // it is looked at when something runs
  }

  /** Open a device; `subgroups` allows that feature where its size is known to be safe. Raises EngineError. */
  static async open (subgroups: boolean): Promise<Gpu> {
    const adapter = await navigator.gpu?.requestAdapter({ powerPreference: 'high-performance' })
    if (adapter == null) throw new EngineError('EngineError', 'this browser offers no WebGPU adapter; use the wasm backend')
    const features: GPUFeatureName[] = []
    if (adapter.features.has('shader-f16')) features.push('shader-f16')
    const size = adapter.info.subgroupMinSize ?? 0
    if (subgroups && size >= SAFE_SUBGROUP_SIZE && adapter.features.has('subgroups')) features.push('subgroups')
    const limits: Record<string, number> = {}
    for (const name of WANTED_LIMITS) limits[name] = adapter.limits[name]
    return new Gpu(await adapter.requestDevice({ requiredFeatures: features, requiredLimits: limits }))
  }

  get lost (): boolean {
    return this.#loss !== null
  }

  /** The result of `work`, or DeviceLost if the device is gone before. */
  async guard<T> (work: () => Promise<T>): Promise<T> {
    if (this.#loss !== null) throw this.#loss
    const result = work()
    result.catch(() => {}) // when the loss is seen first, this failure is only its echo
    try {
      return await Promise.race([result, this.#lost])
    } catch (error) {
      throw this.#loss ?? error
    }
  }

  /** Zeroed storage buffers of one size. Raises CapacityError when the device has no room for them. */
  async allocate (count: number, size: number): Promise<GPUBuffer[]> {
    const { device } = this
    const limit = Math.min(device.limits.maxBufferSize, device.limits.maxStorageBufferBindingSize)
    if (size > limit) throw new EngineError('CapacityError', `a buffer of ${size} bytes is more than this device's ${limit}`)
    device.pushErrorScope('out-of-memory')
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST
    const buffers = Array.from({ length: count }, () => device.createBuffer({ size, usage }))
    const error = await device.popErrorScope()
    if (error === null) return buffers
    for (const buffer of buffers) buffer.destroy()
    throw new EngineError('CapacityError', `the graphics device has no room for ${count} buffers of ${size} bytes: ${error.message}`)
  }

  /** Run copies between buffers, in order with everything else on the device. */
  copy (record: (encoder: GPUCommandEncoder) => void): void {
    const encoder = this.device.createCommandEncoder()
    record(encoder)
    this.device.queue.submit([encoder.finish()])
  }
}
