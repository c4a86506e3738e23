// Boots Pyodide with the kwaainet wheel: from the memory that set-up wrote down, or, where that fails, from its files.
// Rule of the file: the only one that loads pyodide; no Python in strings. What both ways give is the same Python.

import type { PyodideInterface } from 'pyodide'
import { describe } from '../bridge/faults.ts'
import type { LoadMeter } from './loading.ts'
import { type CreateModule, restoring, type SnapshotIndex } from './snapshot.ts'

declare const PYODIDE: string // its folder's path, with a version in it; set by build/web.mjs
declare const PYODIDE_SIZES: Record<string, number> // bytes of its files as they are sent, by their names
declare const SNAPSHOT: SnapshotIndex

const PACKAGE = 'kwaainet'
const NEEDED = [PACKAGE, 'numpy', 'msgpack']

/** Pyodide with all that kwaainet imports; `packages` are those that our wheel does not ask for by itself. */
export async function bootPython (origin: string, packages: string[], meter: LoadMeter): Promise<PyodideInterface> {
  const folder = new URL(PYODIDE, origin).href
  const names = Object.keys(PYODIDE_SIZES)
  const restored = [SNAPSHOT.file, ...SNAPSHOT.libraries.map(({ file }) => file)]
  const files = names.filter(name => !/\.whl$/.test(name))
  try {
    return await watched(folder, files, meter, restorePython)
  } catch (error) {
    console.warn(`python: its memory was not restored, so it starts from its files, which takes longer: ${describe(error)}`)
    const wheels = names.filter(name => [...NEEDED, ...packages].includes(packageOf(name)))
    const others = files.filter(name => !restored.includes(name))
    return await watched(folder, [...others, ...wheels], meter, async () => await startPython(folder, packages))
  }
}

const packageOf = (wheel: string): string => (wheel.split('-')[0] as string).toLowerCase()

/**
 * Have the interpreter compiled from the first moment on, while its loader comes, and run `boot`, which has Pyodide
 * instantiate it. Raises where it cannot be had: Pyodide itself would log that, and wait for ever.
 */
export async function withInterpreter<Booted> (url: string, boot: () => Promise<Booted>): Promise<Booted> {
  const [{ instantiateStreaming }, { fetch }] = [WebAssembly, globalThis]
  const compiled = WebAssembly.compileStreaming(fetch(url))
  let fail: (error: Error) => void = () => {}
  const failed = new Promise<never>((_, reject) => { fail = reject })
  const ask: typeof fetch = async (what, init) => String(what) === url ? new Response() : await fetch(what, init) // it is on its way
  const instantiate = async (_: unknown, imports?: WebAssembly.Imports): Promise<WebAssembly.WebAssemblyInstantiatedSource> => {
    try {
      const module = await compiled
      return { module, instance: await WebAssembly.instantiate(module, imports) }
    } catch (error) {
      fail(new Error(`${url}: ${describe(error)}`))
      throw error
    }
  }
  compiled.catch(() => {}) // told when it is instantiated
  Object.assign(WebAssembly, { instantiateStreaming: instantiate })
  globalThis.fetch = ask
  try {
    return await Promise.race([boot(), failed])
  } finally {
    Object.assign(WebAssembly, { instantiateStreaming })
    globalThis.fetch = fetch
  }
}

async function startPython (indexURL: string, packages: string[]): Promise<PyodideInterface> {
  const { loadPyodide } = await import(`${indexURL}pyodide.mjs`) as typeof import('pyodide')
  const python = await loadPyodide({ indexURL, convertNullToNone: true, packages: [PACKAGE, ...packages] })
  const loaded = Object.keys(python.loadedPackages).map(name => name.toLowerCase()) // Jinja2 calls itself so
  const missing = [PACKAGE, ...packages].filter(name => !loaded.includes(name))
  if (missing.length > 0) throw new Error(`the Python packages cannot be loaded: ${missing.join(', ')}`)
  performance.mark('packages loaded')
  return python
}

/** All files are fetched, and what is WebAssembly is compiled, at once. Raises if any cannot be had or differs from what was written down. */
async function restorePython (indexURL: string, alive: () => void): Promise<PyodideInterface> {
  const memory = new Uint8Array(SNAPSHOT.bytes) // filled while the interpreter is compiled
  const filled = fill(memory, new URL(SNAPSHOT.file, indexURL), alive)
  const libraries = SNAPSHOT.libraries.map(({ path, file }) => ({ path, compiled: WebAssembly.compileStreaming(fetch(new URL(file, indexURL))) }))
  for (const promise of [filled, ...libraries.map(library => library.compiled)]) promise.catch(() => {}) // told where it is awaited
  const [{ loadPyodide }, { default: create }] = await Promise.all([
    import(`${indexURL}pyodide.mjs`) as Promise<typeof import('pyodide')>, import(`${indexURL}pyodide.asm.mjs`) as Promise<{ default: CreateModule }>
  ])
  performance.mark('loader loaded')
  const createPyodideModule = restoring(create, SNAPSHOT, libraries, filled)
  const options: unknown = { indexURL, convertNullToNone: true, _loadSnapshot: memory, createPyodideModule }
  const python = await loadPyodide(options as Parameters<typeof loadPyodide>[0])
  const random = python.pyimport('random')
  random.seed() // or all tabs would draw the same
  random.destroy()
  performance.mark('memory restored')
  return python
}

/** `alive` hears of each piece: on a slow line the whole takes minutes. */
export async function fill (memory: Uint8Array, url: URL, alive: () => void): Promise<void> {
  const response = await fetch(url)
  if (!response.ok || response.body === null) throw new Error(`${url.href} answered ${response.status}`)
  let at = 0
  for await (const chunk of response.body) {
    if (at + chunk.length > memory.length) break
    memory.set(chunk, at)
    at += chunk.length
    alive()
  }
  if (at !== memory.length) throw new Error(`${url.href} has other than ${memory.length} bytes`)
}

/** What `boot` gives, while the meter is told of each of `files` when it is here, which the browser says by its address. */
async function watched (folder: string, files: string[], meter: LoadMeter, boot: (folder: string, alive: () => void) => Promise<PyodideInterface>): Promise<PyodideInterface> {
  const left = new Map(files.map(name => [name, PYODIDE_SIZES[name] ?? 0]))
  const part = { done: 0, total: [...left.values()].reduce((sum, size) => sum + size, 0), cached: 0 }
  meter.runtime({ ...part })
  const note = (entries: PerformanceEntryList): void => {
    for (const { name, transferSize } of entries as PerformanceResourceTiming[]) {
      const file = name.slice(folder.length)
      const size = name.startsWith(folder) ? left.get(file) : undefined
      if (size === undefined) continue
      left.delete(file)
      part.done += size
      if (transferSize === 0) part.cached += size // it came from the browser's own cache
      meter.runtime({ ...part })
    }
  }
  const observer = new PerformanceObserver(list => { note(list.getEntries()) })
  observer.observe({ type: 'resource' })
  try {
    const python = await withInterpreter(`${folder}pyodide.asm.wasm`, async () => await boot(folder, () => { meter.runtime({ ...part }) }))
    note(observer.takeRecords()) // what the browser has not said yet
    meter.runtime({ ...part, done: part.total })
    return python
  } finally {
    observer.disconnect()
  }
}
