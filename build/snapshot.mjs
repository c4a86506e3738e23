// Writes down the memory of an interpreter that has imported all of kwaainet that runs in a tab, so that a tab imports nothing.
//
//   node build/snapshot.mjs PYODIDE_FOLDER PACKAGES_FOLDER
//
// PACKAGES_FOLDER holds unpacked wheels. PYODIDE_FOLDER gets snapshot.bin, the compiled libraries and snapshot.json, which
// web/worker/snapshot.ts follows. The same bytes come every time: clock and chance stand still, and so do Python's hashes.
// (A tab seeds Python's random numbers anew.)

import nodeCrypto from 'node:crypto'
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { withLibraries } from '../web/worker/snapshot.ts'

const IMPORT = `
import gc
import importlib
import pkgutil
import kwaainet

def everything(unwanted):
    for package in pkgutil.iter_modules(kwaainet.__path__, "kwaainet."):
        if package.name not in unwanted:
            path = getattr(importlib.import_module(package.name), "__path__", ())
            for module in pkgutil.walk_packages(path, f"{package.name}."):
                importlib.import_module(module.name)
    gc.collect()

everything
`
const ELSEWHERE = ['kwaainet.native', 'kwaainet.testing'] // of no use in a tab that serves or chats
const SITE = '/lib/python3.14/site-packages'
const BLOCKS = [1 << 20, 1 << 16, 1 << 12, 1 << 8, 1 << 5]

function standStill () {
  Date.now = () => Date.UTC(2026, 0, 1)
  performance.now = () => 0
  const fill = data => new Uint8Array(data.buffer ?? data, data.byteOffset ?? 0, data.byteLength).fill(0)
  Crypto.prototype.getRandomValues = data => { fill(data); return data }
  nodeCrypto.randomFillSync = fill
}

/** What was freed is zeroed, or it would be shipped. */
function wipe (module) {
  const end = () => module.HEAPU32[module._emscripten_get_sbrk_ptr() >> 2]
  const held = []
  for (const size of BLOCKS) {
    for (const before = end(); ;) {
      const address = module._malloc(size)
      held.push(address)
      if (end() !== before) break
      module.HEAPU8.fill(0, address, address + size)
    }
  }
  for (const address of held.reverse()) module._free(address)
}

function place (fs) {
  for (const [index, name] of files.entries()) {
    fs.mkdirTree(dirname(`${SITE}/${name}`))
    fs.writeFile(`${SITE}/${name}`, contents[index])
  }
}

process.on('uncaughtException', error => { // printing it whole would print the interpreter
  console.error(error.message)
  process.exit(1)
})
const [folder, packages] = process.argv.slice(2).map(path => resolve(path))
const files = (await readdir(packages, { recursive: true, withFileTypes: true }))
  .filter(entry => entry.isFile()).map(entry => join(entry.parentPath, entry.name).slice(packages.length + 1)).sort()
const libraries = files.filter(name => name.endsWith('.so')).map(name => ({ path: `${SITE}/${name}`, file: `${basename(name).split('.')[0]}.wasm`, name }))
standStill()
const { loadPyodide } = await import(pathToFileURL(join(folder, 'pyodide.mjs')).href)
const { default: create } = await import(pathToFileURL(join(folder, 'pyodide.asm.mjs')).href)
const compiled = await Promise.all(libraries.map(async ({ path, name }) => ({ path, compiled: WebAssembly.compile(await readFile(join(packages, name))) })))
const contents = await Promise.all(files.map(async name => name.endsWith('.so') ? new Uint8Array() : await readFile(join(packages, name))))
let layout = ''
let module
const python = await loadPyodide({
  indexURL: folder,
  _makeSnapshot: true,
  convertNullToNone: true,
  env: { PYTHONHASHSEED: '0' },
  createPyodideModule: async settings => {
    settings.preRun.push(({ FS }) => { place(FS) })
    return module = await withLibraries(create, compiled, found => { layout = found })(settings)
  }
})
const everything = python.runPython(IMPORT)
everything(ELSEWHERE)
everything.destroy()
python.runPython('import gc; del everything, gc, importlib, pkgutil, kwaainet')
wipe(module)
const memory = python.makeMemorySnapshot()
await mkdir(folder, { recursive: true })
await writeFile(join(folder, 'snapshot.bin'), memory)
for (const { file, name } of libraries) await writeFile(join(folder, file), await readFile(join(packages, name)))
const index = { file: 'snapshot.bin', bytes: memory.length, layout, libraries: libraries.map(({ path, file }) => ({ path, file })) }
await writeFile(join(folder, 'snapshot.json'), `${JSON.stringify(index, null, 1)}\n`)
