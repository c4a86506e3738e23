// A module worker whose script may be of another origin than the page: of a relay, in somebody's site.
// Rule of the file: browsers take workers of one's own origin only, so such a worker is made of one line that imports it;
// a strict page allows that by `worker-src blob:` and the relay in `worker-src` and `script-src`.

const BOOTSTRAP_TIME = 10_000 // ms a browser may take to read the one line

/** `address` is absolute; `name` is what the worker finds as its own. */
export function makeWorker (address: string, name = ''): Worker {
  if (new URL(address).origin === globalThis.location?.origin) return new Worker(address, { type: 'module', name })
  const bootstrap = URL.createObjectURL(new Blob([`import ${JSON.stringify(address)}`], { type: 'text/javascript' }))
  setTimeout(() => { URL.revokeObjectURL(bootstrap) }, BOOTSTRAP_TIME)
  return new Worker(bootstrap, { type: 'module', name })
}
