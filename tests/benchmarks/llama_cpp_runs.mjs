// Times llama.cpp on GGUF files, for tests/benchmarks/llama_cpp.py: llama_cpp_runs.mjs FOLDER ROUNDS FILE...
// FOLDER is where node-llama-cpp is installed. Processor time of one thread; answers one line of JSON.

import { createRequire } from 'node:module'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'

const [folder, rounds, ...files] = process.argv.slice(2)
const SHORT = 128 // positions in the cache when a token is decoded, and of a prefill
const TOKEN = 3

const { getLlama, LlamaLogLevel } = await import(pathToFileURL(createRequire(join(folder, 'package.json')).resolve('node-llama-cpp')).href)
const llama = await getLlama({ gpu: false, build: 'never', logLevel: LlamaLogLevel.error, maxThreads: 1 })

/** Milliseconds of the processor. */
async function spent (work) {
  const start = process.cpuUsage()
  await work()
  const { user, system } = process.cpuUsage(start)
  return (user + system) / 1000
}

const median = values => values.sort((a, b) => a - b)[values.length >> 1]

const figures = []
for (const modelPath of files) {
  const model = await llama.loadModel({ modelPath, gpuLayers: 0 })
  const context = await model.createContext({ contextSize: 1024, batchSize: SHORT, threads: 1 })
  const sequence = context.getSequence()
  const prefill = async () => {
    await sequence.clearHistory()
    return await spent(async () => { await sequence.evaluateWithoutGeneratingNewTokens(Array(SHORT).fill(TOKEN)) })
  }
  await prefill()
  const prefills = []
  for (let round = 0; round < Number(rounds); round++) prefills.push(await prefill())
  const decodes = []
  for (let round = 0; round < 10 * Number(rounds); round++) {
    decodes.push(await spent(async () => { await sequence.evaluateWithoutGeneratingNewTokens([TOKEN]) }))
  }
  figures.push({ prefill: median(prefills), decode: median(decodes) })
  await context.dispose()
  await model.dispose()
}
console.log(JSON.stringify(figures))
process.exit(0)
