// Whether a worker still lives: no event tells a page that a worker has ended without a word.
// A worker holds a lock of its own name for as long as it lives, however it ends; who made it waits for the lock.
// Rule of the file: where there are no locks, nothing is watched.

const locks = (): LockManager | undefined => (navigator as { locks?: LockManager }).locks

/** In a worker, before its first word: hold the lock of its name until the end. */
export async function showLife (): Promise<void> {
  const { name } = globalThis as { name?: string }
  if (name === undefined || name === '' || locks() === undefined) return
  await new Promise<void>(resolve => {
    const hold = async (): Promise<void> => {
      resolve()
      await new Promise(() => {})
    }
    locks()?.request(name, hold).catch(() => { resolve() }) // refused here, it is refused to the page
  })
}

/** A name for a worker that is about to be made; nobody else has it. */
export function nameLife (): string {
  return `kwaainet-worker-${crypto.getRandomValues(new Uint32Array(4)).join('-')}`
}

/** Call `ended` once the worker of this name, which has shown its life, lives no more, unless `signal` is aborted before. */
export function watchLife (name: string, signal: AbortSignal, ended: () => void): void {
  watch(name, signal, ended).catch(() => {}) // aborted, or refused
}

async function watch (name: string, signal: AbortSignal, ended: () => void): Promise<void> {
  let held = false
  await locks()?.request(name, { ifAvailable: true }, async lock => { held = lock === null })
  if (held) await locks()?.request(name, { signal }, async () => { if (!signal.aborted) ended() })
}
