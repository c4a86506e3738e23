// A helper of the wasm engine in Node, as web/worker/thread.ts is in a browser; `launch` starts one.

import { isMainThread, parentPort, Worker } from 'node:worker_threads'
import { help } from '../../web/bridge/threads.ts'

if (!isMainThread) parentPort.once('message', start => { void help(start, () => { parentPort.postMessage('ready') }) })

/** A Worker of Node with the browser's manners. */
export function launch () {
  const worker = new Worker(new URL(import.meta.url))
  worker.unref()
  return {
    postMessage: message => { worker.postMessage(message) },
    terminate: () => worker.terminate(),
    set onmessage (listener) { worker.on('message', data => { listener({ data }) }) },
    set onerror (listener) { worker.on('error', listener) }
  }
}
