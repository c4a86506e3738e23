// How many threads of the processor a node uses.
// Rule of the file: what is asked for is taken or refused with words, never quietly changed; only the browser can say no.

const MOST = 16 // that the engine takes
const USUAL = 4 // unless more are asked for

/** How many threads compute, and why not more. */
export interface ThreadPlan {
  count: number
  /** Of what the count is a part, or why it is one. */
  message: string
}

/**
 * `wanted`: what was asked for. Absent: half of what the machine has, as its person wants some, too (and a thread that is
 * interrupted keeps the others waiting), and at most USUAL: beyond that memory sets the pace. Throws a RangeError for a number that makes no sense.
 */
export function planThreads (wanted?: number): ThreadPlan {
  if (wanted !== undefined && !(Number.isInteger(wanted) && wanted >= 1 && wanted <= MOST)) {
    throw new RangeError(`threads is ${wanted}; give a whole number from 1 to ${MOST}`)
  }
  if (!globalThis.crossOriginIsolated) {
    return { count: 1, message: 'the page is not cross-origin isolated (its server, or the page that frames it, does not say COOP and COEP), so the processor is used with one thread' }
  }
  const all = navigator.hardwareConcurrency
  const count = wanted ?? Math.min(USUAL, Math.max(1, Math.floor(all / 2)))
  if (count > 1) return { count, message: `${count} of ${all}` }
  return { count, message: wanted === 1 ? 'one was asked for' : `of the processor's ${all} the rest is its person's` }
}
