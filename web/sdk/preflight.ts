// Whether this browser can contribute, and with what: looked at without storing or loading anything.

import { canTransferChannels } from '../bridge/rtc.ts'
import type { Backend } from '../worker/messages.ts'
import { type Abortable, abortable } from './abort.ts'
import { planThreads } from './threads.ts'

const ADAPTER_PATIENCE = 10_000 // ms: a browser whose graphics process hangs never answers

/** One thing a tab needs. `required`: without it nothing works; `message` says it in English, `code` which of several reasons it has. */
export interface Check { name: string, ok: boolean, required: boolean, message: string, code?: string }

/** `threads` are those of the processor that a node uses. */
export interface Preflight { checks: Check[], backend: Backend, threads: number, ok: boolean }

// A module whose one function uses a 128-bit constant: it validates only where SIMD exists.
const SIMD_MODULE = Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11)

/** Look at everything; `wanted` and `threads` are what was asked for, if anything. Throws a RangeError for no count of threads. */
export async function preflight (wanted?: Backend, threads?: number, { signal }: Abortable = {}): Promise<Preflight> {
  const plan = planThreads(threads)
  const gpu = await abortable(lookForGpu(wanted === 'webgpu' ? 'wasm would use the processor' : 'the processor is used'), signal)
  const checks: Check[] = [
    { name: 'secure context', ok: isSecureContext, required: true, message: 'open this page by https, or on localhost: browsers give an insecure page neither storage nor locks nor WebGPU' },
    { name: 'WebAssembly SIMD', ok: typeof WebAssembly === 'object' && WebAssembly.validate(SIMD_MODULE), required: true, message: 'this browser has no WebAssembly SIMD; use a current one' },
    { name: 'private file system', ok: 'storage' in navigator && 'getDirectory' in navigator.storage, required: true, message: 'this browser has no private file system (OPFS); a private window may lack it' },
    { name: 'locks', ok: 'locks' in navigator, required: true, message: 'this browser has no Web Locks' },
    { name: 'WebRTC', ok: typeof RTCPeerConnection === 'function', required: false, message: 'this browser has no WebRTC; the tab is reached through its relay only' },
    { name: 'WebRTC in workers', ok: canTransferChannels(), required: false, message: 'this browser keeps WebRTC channels on the page, which forwards their messages' },
    { name: 'WebGPU', ok: gpu.ok, required: wanted === 'webgpu', message: gpu.message, code: gpu.code },
    { name: 'threads', ok: plan.count > 1, required: false, message: plan.message }
  ]
  return {
    checks,
    backend: wanted ?? (gpu.ok && !gpu.software ? 'webgpu' : 'wasm'),
    threads: plan.count,
    ok: checks.every(check => check.ok || !check.required)
  }
}

/** `otherwise`: what happens without a graphics device. */
async function lookForGpu (otherwise: string): Promise<{ ok: boolean, software: boolean, message: string, code: string }> {
  if (!('gpu' in navigator) || navigator.gpu === undefined) return { ok: false, software: false, message: `this browser has no WebGPU; ${otherwise}`, code: 'absent' }
  let timer: ReturnType<typeof setTimeout> | undefined
  const adapter = await Promise.race([
    navigator.gpu.requestAdapter({ powerPreference: 'high-performance' }).catch(() => null),
    new Promise<undefined>(resolve => { timer = setTimeout(() => { resolve(undefined) }, ADAPTER_PATIENCE) })
  ])
  clearTimeout(timer)
  if (adapter == null) {
    const found = adapter === null ? 'found no graphics adapter' : `gave no answer within ${ADAPTER_PATIENCE / 1000} s`
    return { ok: false, software: false, message: `WebGPU ${found}; ${otherwise}`, code: 'no-adapter' }
  }
  const { isFallbackAdapter, architecture } = adapter.info
  const software = isFallbackAdapter || architecture === 'swiftshader'
  return { ok: true, software, message: software ? 'the graphics adapter is emulated in software, slower than the processor' : '', code: software ? 'software' : '' }
}
