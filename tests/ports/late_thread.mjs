// A helper of the wasm engine that takes a part and comes back long after the engine has stopped waiting, each time anew.

import { parentPort } from 'node:worker_threads'
import { Bench } from '../../web/bridge/jobs.ts'
import { connect } from '../../web/bridge/kernel.ts'

const asleep = new Int32Array(new SharedArrayBuffer(4))
parentPort.once('message', async ({ module, memory, control, thread }) => {
  const kernels = await connect(module, memory, thread)
  const late = name => (...numbers) => {
    Atomics.wait(asleep, 0, 0, 1 + Math.random() * 4)
    return kernels[name](...numbers)
  }
  const bench = new Bench({ ...kernels, prepare: late('prepare'), matmul: late('matmul'), attend: late('attend') }, memory, control, thread)
  parentPort.postMessage('ready')
  while (!bench.ended) bench.help()
})
