// The WebSockets of this worker, so that it can be told when all they were given is on its way: what a socket
// still holds when its page goes is lost with it.
// Rule of the file: it watches and changes nothing.

const POLL = 1 // ms; the browser makes more of it when asked again and again

const open = new Set<WebSocket>()

/** Every WebSocket made from here on is watched. */
export function watchSockets (): void {
  globalThis.WebSocket = class extends WebSocket {
    constructor (url: string | URL, protocols?: string | string[]) {
      super(url, protocols)
      open.add(this)
      this.addEventListener('close', () => { open.delete(this) })
    }
  }
}

/** Resolves once no socket holds anything back. */
export async function flushed (): Promise<void> {
  while ([...open].some(socket => socket.bufferedAmount > 0)) await new Promise(resolve => setTimeout(resolve, POLL))
}
