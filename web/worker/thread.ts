// A helper of the engine: it computes its parts of what the node worker computes, in the same memory.

import { help, type HelperStart } from '../bridge/threads.ts'

addEventListener('message', ({ data }: MessageEvent<HelperStart>) => {
  help(data, () => { postMessage('ready') }).then(close, (error: unknown) => { reportError(error) })
}, { once: true })
