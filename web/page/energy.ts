// What computing costs, estimated: nothing in a browser measures it, so the assumption stands beside every figure.
//
// A core: Cloud Carbon Footprint's mean over the processors of a large cloud (from SPECpower_ssj2008 results) is 3.5 W of
// a busy thread and 0.74 W of an idle one; a core has two, so computing adds about 5.5 W. Graphics: no such mean is
// known to us; 40 W lies between integrated (15 W) and mobile discrete ones (60 W and more).

const CORE = 6 // W that a busy core adds to an idle machine
const GRAPHICS = 40 // W of a busy graphics processor

/** The power assumed while the engine computes. */
export function watts (backend: string | undefined, threads: number): number {
  return backend === 'webgpu' ? GRAPHICS : CORE * threads
}

/** Watt hours of `seconds` of computing. */
export function wattHours (seconds: number, power: number): number {
  return seconds * power / 3600
}
