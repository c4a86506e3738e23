// Giving up on what takes long: what every call that may be given up takes, and how it is.

/** What every call takes that may last. */
export interface Abortable {
  /** Gives the call up when aborted. */
  signal?: AbortSignal
}

/** `work`, or the signal's reason if that comes first; the work itself goes on, for whoever else wants it. */
export async function abortable<T> (work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return await work
  return await new Promise<T>((resolve, reject) => {
    const give = (): void => { reject(signal.reason as Error) }
    if (signal.aborted) give()
    signal.addEventListener('abort', give, { once: true })
    void work.then(resolve, reject).finally(() => { signal.removeEventListener('abort', give) })
  })
}

/** Has `cut` called if the signal aborts, now or before `work` has ended. */
export async function cutShort (work: Promise<void>, signal: AbortSignal | undefined, cut: () => void): Promise<void> {
  if (signal?.aborted === true) cut()
  signal?.addEventListener('abort', cut)
  await work.finally(() => { signal?.removeEventListener('abort', cut) })
}
