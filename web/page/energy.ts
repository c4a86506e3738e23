// What computing costs, estimated: nothing in a browser measures it.

const CORE = 6 // W that a busy core takes beside an idle machine: a laptop's, about
const GRAPHICS = 40 // W of a busy graphics processor, about

/** The power assumed while the engine computes. */
export function watts (backend: string | undefined, threads: number): number {
  return backend === 'webgpu' ? GRAPHICS : CORE * threads
}

/** Watt hours of `seconds` of computing. */
export function wattHours (seconds: number, power: number): number {
  return seconds * power / 3600
}
