// The time of a worker whose machine's clock is wrong: the relay's.
// A slot's end is told as a time of day, and libp2p refuses one that has passed. Rule of the file: what is wrong may be
// set right at any moment, so the time that passes is measured and not read off the clock.

/** Have `Date` tell the relay's time, of which this machine's is `ahead` by so many seconds; 0: it is right. */
export function setClock (ahead: number): void {
  if (ahead === 0) return
  const start = Date.now() - 1000 * ahead - performance.now()
  const now = (): number => Math.round(start + performance.now())
  globalThis.Date = new Proxy(Date, {
    get: (date, name) => name === 'now' ? now : Reflect.get(date, name),
    construct: (date, words, made) => Reflect.construct(date, words.length === 0 ? [now()] : words, made) as object
  })
}
