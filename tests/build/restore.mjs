// Lays the memory of a Pyodide folder over an interpreter in Node, as web/worker/boot.ts does in a tab, and prints what Python
// then has: node tests/build/restore.mjs FOLDER

import { readFile, realpath } from 'node:fs/promises'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { restoring } from '../../web/worker/snapshot.ts'

const LOOK = `
import json, random, sys
import msgpack
import numpy
json.dumps({
    "imported": len(sys.modules),
    "native": sum(name.startswith("kwaainet.native") for name in sys.modules),
    "testing": sum(name.startswith("kwaainet.testing") for name in sys.modules),
    "product": float(numpy.float32([1, 2, 3]) @ numpy.float32([1, 2, 3])),
    "packed": msgpack.unpackb(msgpack.packb([1, "zwei", 3.5])),
    "random": random.random(),
})
`
const folder = process.argv[2]
process.on('uncaughtException', error => { // printing it whole would print the interpreter
  console.error(error.message)
  process.exit(1)
})
const index = JSON.parse(await readFile(join(folder, 'snapshot.json'), 'utf8'))
const indexURL = await realpath(folder)
const memory = new Uint8Array(await readFile(join(folder, index.file)))
const libraries = index.libraries.map(({ path, file }) => ({ path, compiled: readFile(join(folder, file)).then(WebAssembly.compile) }))
const { loadPyodide } = await import(pathToFileURL(join(indexURL, 'pyodide.mjs')).href)
const { default: create } = await import(pathToFileURL(join(indexURL, 'pyodide.asm.mjs')).href)
const createPyodideModule = restoring(create, index, libraries, Promise.resolve())
const python = await loadPyodide({ indexURL, _loadSnapshot: memory, createPyodideModule })
python.runPython('import random; random.seed()')
console.log(python.runPython(LOOK))
